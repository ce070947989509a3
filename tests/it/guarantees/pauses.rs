//! What is down is waited for: nothing is dead-lettered for it, and work goes on by itself.
