//! The direction of imports, as `src/lib.rs` describes it: a table of what each module imports, and no circles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each top-level module imports of the crate, tests aside.
const IMPORTS: &[(&str, &str)] = &[
    (
        "cli",
        "broker clock config dead_letter decode distance embedder embedding extract fetch footprint indexer ingest \
          machine message metrics model outcome pipeline shutdown simd sources store transfer worker",
    ),
    (
        "worker",
        "backpressure broker decode embedder extract fetch health indexer message metrics model outcome pipeline \
          server shutdown store",
    ),
    ("server", "health metrics"),
    ("ingest", "clock message outcome pipeline sources"),
    ("transfer", "atomic_file embedding message sources store"),
    ("sources", "excerpt message"),
    ("dead_letter", "broker message"),
    ("footprint", "decode model"),
    ("pipeline", "clock decode embedder extract fetch indexer message metrics outcome store"),
    ("embedder", "decode embedding extract fetch metrics"),
    ("indexer", "backpressure message metrics outcome store"),
    ("message", "excerpt"),
    ("fetch", "backpressure error_chain excerpt metrics"),
    ("extract", "decode embedding metrics model"),
    ("store", "distance embedding error_chain excerpt model simd"),
    ("model", "atomic_file decode embedding error_chain machine simd"),
    ("decode", "simd"),
    ("broker", "backpressure clock health metrics outcome"),
    ("metrics", "outcome"),
    ("outcome", ""),
    ("config", ""),
    ("embedding", ""),
    ("distance", ""),
    ("backpressure", ""),
    ("excerpt", ""),
    ("error_chain", ""),
    ("simd", ""),
    ("health", ""),
    ("machine", ""),
    ("clock", ""),
    ("atomic_file", ""),
    ("shutdown", ""),
];

/// A path within the crate: its modules, and what it names last.
type Import = Vec<String>;

#[test]
fn each_module_imports_what_the_table_says() {
    let table: BTreeMap<_, BTreeSet<_>> =
        IMPORTS.iter().map(|(module, imports)| (*module, imports.split_whitespace().collect())).collect();
    let imports = imports_by_module();
    for (module, found) in &imports {
        let expected = table.get(module.as_str()).cloned().unwrap_or_default();
        let found: BTreeSet<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found, expected, "the imports of `{module}`, and what the table above says of them");
    }
    let modules: BTreeSet<_> = imports.keys().map(String::as_str).collect();
    assert_eq!(table.into_keys().collect::<BTreeSet<_>>(), modules, "the modules of the table, and those there are");
}

#[test]
fn modules_import_only_what_stands_below_them_in_the_map() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! |")?.split(" | ").next());
    let map: Vec<_> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    let imports = imports_by_module();
    let modules: BTreeSet<_> = imports.keys().map(String::as_str).collect();
    assert_eq!(map.iter().copied().collect::<BTreeSet<_>>(), modules, "the modules of the map, and those there are");
    let place = |module: &str| map.iter().position(|name| *name == module);
    for (module, found) in &imports {
        let upwards: Vec<_> = found.iter().filter(|import| place(import) < place(module)).collect();
        assert!(upwards.is_empty(), "`{module}` imports what stands above it in the map of src/lib.rs: {upwards:?}");
    }
}

#[test]
fn no_folder_has_a_circle_of_imports() {
    // For each folder: from one of its files or folders to the others that it imports.
    let mut folders: BTreeMap<Import, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in sources() {
        for import in &file.imports {
            let common = file.module.iter().zip(import).take_while(|(a, b)| a == b).count();
            // The face of a folder, `mod.rs`, is above and below its files.
            let (Some(from), Some(to)) = (file.module.get(common), import.get(common)) else { continue };
            folders.entry(import[..common].to_vec()).or_default().entry(from.clone()).or_default().insert(to.clone());
        }
    }
    for (folder, mut imports) in folders {
        // What imports nothing that is left is on no circle.
        loop {
            let left: BTreeSet<_> = imports.keys().cloned().collect();
            let before = left.len();
            imports.retain(|_, to| to.iter().any(|to| left.contains(to)));
            if imports.len() == before {
                break;
            }
        }
        assert!(imports.is_empty(), "in {}: {imports:?}", folder.join("::"));
    }
}

/// The other top-level modules that each one imports.
fn imports_by_module() -> BTreeMap<String, BTreeSet<String>> {
    let mut by_module: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for Source { module, imports } in sources() {
        // Neither the program's `main` nor the list of what tests use is a part of the layers.
        let Some(module) = module.into_iter().next().filter(|module| module != "testing") else { continue };
        let others = imports.into_iter().filter_map(|path| path.into_iter().next()).filter(|name| *name != module);
        by_module.entry(module.clone()).or_default().extend(others);
    }
    by_module
}

struct Source {
    /// Of `store/embedded/scan.rs` and of `store/embedded/scan/mod.rs`: store, embedded, scan.
    module: Import,
    imports: Vec<Import>,
}

/// The files of the program, tests aside.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().unwrap() == "tests" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let module = module_of(path.strip_prefix(&root).unwrap());
                let imports = imports_of(&module, &fs::read_to_string(&path).unwrap());
                sources.push(Source { module, imports });
            }
        }
    }
    assert!(sources.len() > 100, "the files of the program are in {}", root.display());
    sources
}

fn module_of(path: &Path) -> Import {
    let path: PathBuf = path.with_extension("");
    let names = path.iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| !["mod", "lib", "main"].contains(&name.as_str())).collect()
}

/// Every path of the crate that a file names: in `use` declarations, and where `crate::` or `super::` stand alone.
fn imports_of(module: &[String], text: &str) -> Vec<Import> {
    let code: Vec<_> = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines().map(without_comment).collect();
    let code = code.join(" ");
    let mut imports = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            for path in expanded(&code[at..]) {
                imports.extend(resolved(module, &path));
            }
        }
    }
    imports
}

fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// A path with its group, such as `crate::a::{b, c::d}`, as single paths.
fn expanded(text: &str) -> Vec<Import> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let names: Import = text[..end].split("::").filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect();
    if !text[..end].ends_with("::") || !text[end..].starts_with('{') {
        return vec![names];
    }
    let mut paths = Vec::new();
    let (mut depth, mut from) = (0, end + 1);
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < end) {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 1 => {
                let below = expanded(text[from..].trim_start());
                paths.extend(below.into_iter().map(|below| [names.clone(), below].concat()));
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    paths
}

/// The path from the crate's root; `None` where it names nothing in it.
fn resolved(module: &[String], path: &[String]) -> Option<Import> {
    let mut from: Import = match path.first()?.as_str() {
        "crate" => Vec::new(),
        _ => module.to_vec(),
    };
    for (at, name) in path.iter().enumerate() {
        match name.as_str() {
            "super" => drop(from.pop()),
            "crate" | "self" => {}
            _ => {
                from.extend(path[at..].iter().cloned());
                break;
            }
        }
    }
    Some(from)
}
