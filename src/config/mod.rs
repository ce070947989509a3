//! Settings: a flag overrides the environment, the environment the file, the file the default.
//!
//! Arguments are described once, to clap, which also reads the environment. Values of `imgdex.toml` and of secret files
//! (`IMGDEX_STORE_FILE` and the like) become the *defaults* of their arguments, so that one parser, one set of checks and
//! one precedence hold for every setting of every command.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

/// The start of the name of every variable of this program.
pub const PREFIX: &str = "IMGDEX_";

/// The variable that names the file, and so the one that cannot be set in it.
const CONFIG: &str = "IMGDEX_CONFIG";

/// The name of a variable that is never set. An argument gets it in place of its own variable where clap must not read
/// that one, because it is empty or was split here.
const NEVER_SET: &str = "IMGDEX_";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    Environment,
    /// A file that a variable `..._FILE` names.
    SecretFile(PathBuf),
    /// The configuration file.
    File(PathBuf),
    Default,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("environment"),
            Self::SecretFile(path) | Self::File(path) => path.display().fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why the configuration is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A named file cannot be read.
    #[error("{}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    /// The file is not TOML.
    #[error("{}: {source}", path.display())]
    Malformed {
        path: PathBuf,
        /// The parser's error, with line and column.
        source: Box<toml::de::Error>,
    },
    /// No setting of this name.
    #[error("{}: there is no setting `{key}`; known: {}", path.display(), known.join(", "))]
    Unknown {
        path: PathBuf,
        key: String,
        /// All keys.
        known: Vec<String>,
    },
    /// A value that the setting does not accept.
    #[error("{}: `{key}`: {reason}", path.display())]
    Value { path: PathBuf, key: String, reason: String },
    /// A variable and its `_FILE` variant are set.
    #[error("both {0} and {0}_FILE are set; unset one of them")]
    Both(String),
}

/// One setting, which several commands may share.
pub struct Setting {
    /// The environment variable.
    pub variable: String,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// The default; empty where it depends on the command or the machine.
    pub default: String,
    /// The arguments that it sets.
    args: Vec<Arg>,
}

impl Setting {
    /// The key in the configuration file: `IMGDEX_BULK_ITEMS` is `bulk_items`.
    pub fn key(&self) -> String {
        self.variable.trim_start_matches(PREFIX).to_lowercase()
    }

    /// Splits a variable's value where clap does not. In the environment commas separate the values of every repeatable
    /// setting; on the command line they do not where a value may contain commas.
    fn split(&self, value: &OsString) -> Option<Layered> {
        let repeatable = self.args.iter().any(|arg| matches!(arg.get_action(), ArgAction::Append));
        let delimited = self.args.iter().all(|arg| arg.get_value_delimiter().is_some());
        let text = value.to_str().filter(|_| repeatable && !delimited)?;
        let values = text.split(',').map(OsString::from).collect();
        Some(Layered { values, provenance: Provenance::Environment, secret: self.secret })
    }

    /// Checks a value as each of the commands would.
    ///
    /// # Errors
    /// The reason, in one line.
    pub fn check(&self, value: &OsString) -> Result<(), String> {
        self.args.iter().try_for_each(|arg| check(arg, value))
    }
}

/// Every setting of a command and its subcommands, by variable.
pub fn settings(command: &Command) -> BTreeMap<String, Setting> {
    let mut found = BTreeMap::new();
    collect(command, &mut found);
    found
}

fn collect(command: &Command, found: &mut BTreeMap<String, Setting>) {
    for arg in command.get_arguments() {
        let Some(variable) = variable_of(arg) else { continue };
        let default = || {
            let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
            values.collect::<Vec<_>>().join(",")
        };
        let setting = found.entry(variable.clone()).or_insert_with(|| Setting {
            variable,
            secret: arg.is_hide_env_values_set(),
            default: default(),
            args: Vec::new(),
        });
        setting.args.push(arg.clone());
    }
    command.get_subcommands().for_each(|command| collect(command, found));
}

fn variable_of(arg: &Arg) -> Option<String> {
    Some(arg.get_env()?.to_str()?.to_owned()).filter(|name| name != CONFIG)
}

/// Parses one value with an argument's own parser, in a command of its own.
fn check(arg: &Arg, value: &OsString) -> Result<(), String> {
    let mut copy =
        Arg::new("value").long("value").value_parser(arg.get_value_parser().clone()).allow_hyphen_values(true);
    if matches!(arg.get_action(), ArgAction::Append) {
        copy = copy.value_delimiter(arg.get_value_delimiter()).action(ArgAction::Append);
    }
    let command = Command::new("check").no_binary_name(true).arg(copy);
    match command.try_get_matches_from([OsString::from("--value"), value.clone()]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
            let line = lines.collect::<Vec<_>>().join(" ");
            let message = line.trim_start_matches("error: ").replace(" for '--value <value>'", "");
            Err(message)
        }
    }
}

/// The values of the configuration file, of secret files, and of variables that clap does not read.
#[derive(Debug, Default)]
pub struct Layers {
    /// The configuration file, where there is one.
    pub file: Option<PathBuf>,
    values: BTreeMap<String, Layered>,
    /// Variables that are set to the empty text, which counts as not set: some orchestrators pass unset ones so.
    empty: BTreeSet<String>,
}

#[derive(Debug)]
struct Layered {
    values: Vec<OsString>,
    provenance: Provenance,
    secret: bool,
}

impl Layers {
    /// Reads the configuration file, where there is one, and the secret files that `environment` names.
    pub fn read(
        command: &Command,
        file: Option<PathBuf>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Error> {
        let settings = settings(command);
        let mut values = BTreeMap::new();
        if let Some(path) = &file {
            let table: toml::Table = read(path)?
                .parse()
                .map_err(|source| Error::Malformed { path: path.clone(), source: Box::new(source) })?;
            for (key, value) in table {
                let (variable, layered) = from_file(path, &settings, key, &value)?;
                values.insert(variable, layered);
            }
        }
        let mut empty = BTreeSet::new();
        for setting in settings.values() {
            match environment(&setting.variable) {
                Some(value) if value.is_empty() => drop(empty.insert(setting.variable.clone())),
                Some(value) => values.extend(setting.split(&value).map(|layered| (setting.variable.clone(), layered))),
                None => {}
            }
        }
        for setting in settings.values().filter(|setting| setting.secret) {
            let Some(path) = environment(&format!("{}_FILE", setting.variable)) else { continue };
            if environment(&setting.variable).is_some_and(|value| !value.is_empty()) {
                return Err(Error::Both(setting.variable.clone()));
            }
            let path = PathBuf::from(path);
            let secret = read(&path)?.trim_end_matches(['\r', '\n']).to_owned();
            if secret.is_empty() {
                return Err(Error::Unreadable { path, reason: "the file is empty".to_owned() });
            }
            let layered =
                Layered { values: vec![secret.into()], provenance: Provenance::SecretFile(path), secret: true };
            values.insert(setting.variable.clone(), layered);
        }
        Ok(Self { file, values, empty })
    }

    /// Makes the values the defaults of the arguments of a command and its subcommands.
    pub fn apply(&self, command: Command) -> Command {
        let command = command.mut_args(|arg| match variable_of(&arg) {
            Some(variable) => self.apply_to(arg, &variable),
            None => arg,
        });
        let names: BTreeSet<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        names.into_iter().fold(command, |command, name| command.mut_subcommand(name, |command| self.apply(command)))
    }

    fn apply_to(&self, arg: Arg, variable: &str) -> Arg {
        let layered = self.values.get(variable);
        let handled_here = self.empty.contains(variable)
            || layered.is_some_and(|layered| layered.provenance == Provenance::Environment);
        let arg = if handled_here { arg.env(NEVER_SET).hide_env(true) } else { arg };
        match layered {
            Some(layered) => arg.default_values(layered.values.clone()).hide_default_value(layered.secret),
            None => arg,
        }
    }

    /// The value of a setting without flags, several values joined by commas, and where it comes from.
    pub fn value(&self, setting: &Setting, environment: impl Fn(&str) -> Option<OsString>) -> (String, Provenance) {
        if let Some(value) = environment(&setting.variable).filter(|value| !value.is_empty()) {
            return (value.to_string_lossy().into_owned(), Provenance::Environment);
        }
        match self.values.get(&setting.variable) {
            Some(layered) => {
                let values: Vec<_> = layered.values.iter().map(|value| value.to_string_lossy()).collect();
                (values.join(","), layered.provenance.clone())
            }
            None => (setting.default.clone(), Provenance::Default),
        }
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::Unreadable { path: path.to_owned(), reason: error.to_string() })
}

fn from_file(
    path: &Path,
    settings: &BTreeMap<String, Setting>,
    key: String,
    value: &toml::Value,
) -> Result<(String, Layered), Error> {
    let Some(setting) = settings.values().find(|setting| setting.key() == key) else {
        let known = settings.values().map(Setting::key).collect();
        return Err(Error::Unknown { path: path.to_owned(), key, known });
    };
    let refused = |reason| Error::Value { path: path.to_owned(), key: key.clone(), reason };
    let repeatable = setting.args.iter().any(|arg| matches!(arg.get_action(), ArgAction::Append));
    let values = texts(value, repeatable).map_err(refused)?;
    let values: Vec<OsString> = values.into_iter().map(OsString::from).collect();
    for value in &values {
        setting.check(value).map_err(refused)?;
    }
    let provenance = Provenance::File(path.to_owned());
    Ok((setting.variable.clone(), Layered { values, provenance, secret: setting.secret }))
}

/// The values of a setting, as texts, from a TOML value.
fn texts(value: &toml::Value, repeatable: bool) -> Result<Vec<String>, String> {
    match value {
        toml::Value::String(text) => Ok(vec![text.clone()]),
        toml::Value::Integer(number) => Ok(vec![number.to_string()]),
        toml::Value::Float(number) => Ok(vec![number.to_string()]),
        toml::Value::Boolean(flag) => Ok(vec![flag.to_string()]),
        toml::Value::Array(values) if repeatable => {
            let nested: Vec<_> = values.iter().map(|value| texts(value, false)).collect::<Result<_, _>>()?;
            Ok(nested.concat())
        }
        toml::Value::Array(_) => Err("expected one value, not a list".to_owned()),
        toml::Value::Datetime(_) | toml::Value::Table(_) => Err("expected text, a number, true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests;
