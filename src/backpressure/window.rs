//! The last `N` outcomes, to judge by the share of those that failed.

use std::collections::VecDeque;

/// The last `N` items, oldest first.
#[derive(Debug)]
pub struct Window<T, const N: usize>(VecDeque<T>);

impl<T, const N: usize> Default for Window<T, N> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T, const N: usize> Window<T, N> {
    /// Adds an item; drops the oldest one where there would be more than `N`.
    pub fn push(&mut self, item: T) {
        self.0.push_back(item);
        if self.0.len() > N {
            self.0.pop_front();
        }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.0.iter()
    }

    pub fn count(&self, matches: impl Fn(&T) -> bool) -> usize {
        self.0.iter().filter(|item| matches(item)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_items_in_order() {
        let mut window = Window::<u32, 3>::default();
        (1..=5).for_each(|item| window.push(item));
        assert_eq!(
            (window.iter().copied().collect::<Vec<_>>(), window.count(|item| item % 2 == 1)),
            (vec![3, 4, 5], 2)
        );
    }
}
