//! Keras' `.h5` files of weights: a group per layer, with a kernel (HWIO) and a bias somewhere below it.

use hdf5_pure::{Dataset, File, Group};

use super::tensors::Tensors;
use crate::model::vgg16::convolutions;

/// Keras nests two levels deep; a damaged file may have a cycle.
const MAX_DEPTH: usize = 4;

/// Reads the layers of the network, and ignores others (pools, the classifier).
///
/// # Errors
/// When the file is damaged, or a layer is not a kernel and a bias.
pub(super) fn read(bytes: Vec<u8>) -> Result<Tensors, String> {
    let file = File::from_bytes(bytes).map_err(|error| error.to_string())?;
    let root = file.root();
    // Files of whole models keep the weights one level deeper.
    let root = root.group("model_weights").unwrap_or(root);
    let mut tensors = Tensors::default();
    for (layer, inputs, outputs) in convolutions() {
        let group = root.group(&layer).map_err(|error| format!("{layer}: {error}"))?;
        let mut found = Vec::new();
        datasets(&group, MAX_DEPTH, &mut found).map_err(|error| format!("{layer}: {error}"))?;
        for dataset in found {
            let failed = |error: hdf5_pure::Error| format!("{layer}: {error}");
            let shape = dataset.shape().map_err(failed)?;
            // Checked before any values are read: a damaged shape may need any amount of memory.
            if shape == [3, 3, inputs as u64, outputs as u64] {
                let values = dataset.read_f32().map_err(failed)?;
                let values = oihw(&values, inputs, outputs)
                    .ok_or_else(|| format!("{layer}: the kernel has {} values", values.len()))?;
                tensors.insert(format!("{layer}.weight"), &[outputs, inputs, 3, 3], &values)?;
            } else if shape == [outputs as u64] {
                let values = dataset.read_f32().map_err(failed)?;
                tensors.insert(format!("{layer}.bias"), &[outputs], &values)?;
            } else {
                return Err(format!("{layer} holds an array of {shape:?}"));
            }
        }
    }
    Ok(tensors)
}

fn datasets(group: &Group, depth: usize, found: &mut Vec<Dataset>) -> Result<(), String> {
    for name in group.datasets().map_err(|error| error.to_string())? {
        found.push(group.dataset(&name).map_err(|error| error.to_string())?);
    }
    if depth > 0 {
        for name in group.groups().map_err(|error| error.to_string())? {
            datasets(&group.group(&name).map_err(|error| error.to_string())?, depth - 1, found)?;
        }
    }
    Ok(())
}

/// From Keras' order of a kernel (height, width, input, output) to that of the network; `None` for another size.
fn oihw(hwio: &[f32], inputs: usize, outputs: usize) -> Option<Vec<f32>> {
    if hwio.len() != 9 * inputs * outputs {
        return None;
    }
    let at = |output, input, tap| hwio[(tap * inputs + input) * outputs + output];
    let taps = move |output, input| (0..9).map(move |tap| at(output, input, tap));
    Some((0..outputs).flat_map(|output| (0..inputs).flat_map(move |input| taps(output, input))).collect())
}
