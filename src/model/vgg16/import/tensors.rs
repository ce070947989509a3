//! The tensors of the network by name, and their canonical form.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::model::vgg16::convolutions;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Tensors(BTreeMap<String, Tensor>);

#[derive(Debug, PartialEq)]
struct Tensor {
    shape: Vec<usize>,
    /// Little-endian float32.
    bytes: Vec<u8>,
}

impl Tensors {
    /// Adds a tensor.
    ///
    /// # Errors
    /// When there is one of this name already, or the number of values does not fit the shape.
    pub(super) fn insert(&mut self, name: String, shape: &[usize], values: &[f32]) -> Result<(), String> {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.insert_bytes(name, shape, bytes)
    }

    /// Adds a tensor of little-endian float32.
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub(super) fn insert_bytes(&mut self, name: String, shape: &[usize], bytes: Vec<u8>) -> Result<(), String> {
        let expected = shape.iter().try_fold(size_of::<f32>(), |size, &side| size.checked_mul(side));
        if expected != Some(bytes.len()) {
            return Err(format!("{name} has {} bytes, which is not {shape:?} in float32", bytes.len()));
        }
        match self.0.entry(name) {
            Entry::Vacant(vacant) => {
                vacant.insert(Tensor { shape: shape.to_vec(), bytes });
                Ok(())
            }
            Entry::Occupied(occupied) => Err(format!("{} appears twice", occupied.key())),
        }
    }

    /// Reads a safetensors file.
    ///
    /// # Errors
    /// When it is damaged, or a tensor is not float32.
    pub(super) fn from_safetensors(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let mut tensors = Self::default();
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(format!("{name} is {:?}, not float32", view.dtype()));
            }
            tensors.insert_bytes(name.to_owned(), view.shape(), view.data().to_vec())?;
        }
        Ok(tensors)
    }

    /// The canonical file: exactly the tensors of the network.
    ///
    /// # Errors
    /// When one is missing, has another shape, or there are others.
    pub(super) fn canonical(&self) -> Result<Vec<u8>, String> {
        let mut views = BTreeMap::new();
        for (name, inputs, outputs) in convolutions() {
            for (kind, shape) in [("weight", vec![outputs, inputs, 3, 3]), ("bias", vec![outputs])] {
                let name = format!("{name}.{kind}");
                let tensor = self.0.get(&name).ok_or_else(|| format!("{name} is missing"))?;
                if tensor.shape != shape {
                    return Err(format!("{name} has the shape {:?}, not {shape:?}", tensor.shape));
                }
                let view = TensorView::new(Dtype::F32, shape, &tensor.bytes).map_err(|error| error.to_string())?;
                views.insert(name, view);
            }
        }
        if let Some(other) = self.0.keys().find(|name| !views.contains_key(*name)) {
            return Err(format!("{other} is no part of this network"));
        }
        // All of one type, so the crate orders them by name.
        safetensors::serialize(views, None).map_err(|error| error.to_string())
    }
}
