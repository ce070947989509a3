//! The initializers of ONNX files: protobuf messages of which few fields matter.
//!
//! Field numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use prost::Message;

use super::tensors::Tensors;
use crate::model::vgg16::convolutions;

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;

/// `ModelProto`.
#[derive(Message)]
pub(super) struct OnnxModel {
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<Graph>,
}

/// `GraphProto`.
#[derive(Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<Initializer>,
}

/// `TensorProto`.
#[derive(Message)]
pub(super) struct Initializer {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(super) float_data: Vec<f32>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub(super) raw_data: Vec<u8>,
}

/// Reads the initializers of the network's layers. Their names contain the layer's as one part of a path
/// (`functional_1/block1_conv1_1/convolution/ReadVariableOp:0`); the number of dimensions tells kernels (OIHW) from biases.
///
/// # Errors
/// When this is not an ONNX model, or an initializer is not float32.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, String> {
    let model = OnnxModel::decode(bytes).map_err(|error| error.to_string())?;
    let graph = model.graph.ok_or("it has no graph")?;
    let layers: Vec<_> = convolutions().map(|(layer, ..)| layer).collect();
    let mut tensors = Tensors::default();
    for initializer in graph.initializer {
        let Initializer { dims, data_type, float_data, name, raw_data } = initializer;
        let Some(layer) = layers.iter().find(|layer| name.split('/').any(|part| is_layer(part, layer))) else {
            continue;
        };
        let kind = match dims.len() {
            4 => "weight",
            1 => "bias",
            _ => continue,
        };
        if data_type != FLOAT {
            return Err(format!("{name} has the type {data_type}, not float32"));
        }
        let shape: Vec<usize> = dims
            .iter()
            .map(|&side| usize::try_from(side).map_err(|_| format!("{name} has the shape {dims:?}")))
            .collect::<Result<_, _>>()?;
        let name = format!("{layer}.{kind}");
        if raw_data.is_empty() {
            tensors.insert(name, &shape, &float_data)?;
        } else {
            tensors.insert_bytes(name, &shape, raw_data)?;
        }
    }
    Ok(tensors)
}

/// Keras makes a name unique by a number at its end.
fn is_layer(part: &str, layer: &str) -> bool {
    let Some(rest) = part.strip_prefix(layer) else { return false };
    rest.is_empty() || rest.strip_prefix('_').is_some_and(|number| number.parse::<u32>().is_ok())
}
