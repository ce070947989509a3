//! The direction of imports, as `src/lib.rs` describes it: a table of what each module imports, and no circles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, Macro, UseTree, Visibility};
use walkdir::WalkDir;

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
    ("dead_letter", "broker clock message"),
    ("footprint", "decode model"),
    ("pipeline", "clock decode embedder extract fetch indexer message metrics outcome store"),
    ("embedder", "decode embedding extract fetch metrics"),
    ("indexer", "backpressure message metrics outcome store"),
    ("message", "excerpt"),
    ("fetch", "backpressure error_chain excerpt metrics"),
    ("extract", "decode embedding metrics model"),
    ("store", "distance embedding error_chain excerpt model simd"),
    ("model", "atomic_file decode embedding error_chain machine simd"),
    ("decode", "machine metrics outcome simd"),
    ("broker", "backpressure clock excerpt health metrics outcome"),
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

/// A file of the program, tests aside.
struct Source {
    /// Of `store/embedded/scan.rs`, and of `store/embedded/scan/mod.rs`: store, embedded, scan.
    module: Import,
    imports: Vec<Import>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    // What the face of a folder hands on: the path under which it is imported, and where it is.
    let mut handed_on = BTreeMap::new();
    for entry in WalkDir::new(&root).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file()) {
        let path = entry.path().strip_prefix(&root).unwrap();
        if path.iter().any(|name| name == "tests" || name == "tests.rs") {
            continue;
        }
        let mut file = File { module: module_of(path), ..File::default() };
        file.visit_file(&syn::parse_file(&fs::read_to_string(entry.path()).unwrap()).unwrap());
        handed_on.extend(file.handed_on);
        sources.push(Source { module: file.module, imports: file.imports });
    }
    assert!(sources.len() > 100, "the files of the program are in {}", root.display());
    for import in sources.iter_mut().flat_map(|source| &mut source.imports) {
        while let Some((length, path)) =
            (1..=import.len()).rev().find_map(|length| Some((length, handed_on.get(&import[..length])?)))
        {
            let rest = import.split_off(length);
            *import = path.iter().cloned().chain(rest).collect();
        }
    }
    sources
}

fn module_of(path: &Path) -> Import {
    let path = path.with_extension("");
    let names = path.iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| !["mod", "lib", "main"].contains(&name.as_str())).collect()
}

/// Collects the paths of the crate that a file names: in `use` declarations, in code, and in macros.
#[derive(Default)]
struct File {
    module: Import,
    /// The inline modules around the present item.
    inline: Vec<String>,
    imports: Vec<Import>,
    handed_on: BTreeMap<Import, Import>,
}

impl File {
    fn name(&mut self, path: &[String]) {
        self.imports.extend(self.resolved(path));
    }

    /// The path from the crate's root; `None` where it does not begin in the crate.
    fn resolved(&self, path: &[String]) -> Option<Import> {
        let mut from: Import = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => self.module.iter().chain(&self.inline).cloned().collect(),
            _ => return None,
        };
        for name in path {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(from.pop()),
                _ => from.push(name.clone()),
            }
        }
        Some(from)
    }

    /// Each path of a `use` declaration, with the name under which it is known.
    fn uses(tree: &UseTree, before: &[String]) -> Vec<(Import, String)> {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => Self::uses(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => vec![(with(&name.ident), name.ident.to_string())],
            UseTree::Rename(rename) => {
                let keyword = ["crate", "self", "super"].iter().any(|word| rename.ident == word);
                assert!(!keyword || !before.is_empty(), "an alias of `{}` hides imports", rename.ident);
                vec![(with(&rename.ident), rename.rename.to_string())]
            }
            UseTree::Glob(_) => vec![(before.to_vec(), "*".to_owned())],
            UseTree::Group(group) => group.items.iter().flat_map(|tree| Self::uses(tree, before)).collect(),
        }
    }
}

impl<'ast> Visit<'ast> for File {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            _ => &Vec::new(),
        };
        let is_test = |attribute: &syn::Attribute| attribute.meta.to_token_stream().to_string() == "cfg (test)";
        if !attributes.iter().any(is_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_some() {
            self.inline.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.inline.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for (mut path, known_as) in Self::uses(&item.tree, &[]) {
            // A path may begin with a module of this one, as in `pub use error::Error`.
            let is_public = matches!(item.vis, Visibility::Public(_));
            if is_public && self.resolved(&path).is_none() {
                path.insert(0, "self".to_owned());
            }
            let Some(found) = self.resolved(&path) else { continue };
            if is_public && known_as != "*" {
                let here: Import = self.module.iter().chain(&self.inline).cloned().chain([known_as]).collect();
                if here != found {
                    self.handed_on.insert(here, found.clone());
                }
            }
            self.imports.push(found);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Import = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.name(&names);
        visit::visit_path(self, path);
    }

    /// Tokens: `crate`, and names with `::` between them.
    fn visit_macro(&mut self, called: &'ast Macro) {
        let text = called.tokens.to_string();
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            if !["crate", "super", "self"].contains(&word) {
                continue;
            }
            let mut path = vec![word.to_owned()];
            while words.next_if_eq(&"::").is_some() {
                path.extend(words.next().map(ToOwned::to_owned));
            }
            if path.len() > 1 {
                self.name(&path);
            }
        }
        visit::visit_macro(self, called);
    }
}
