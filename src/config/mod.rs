//! Settings: flag before environment before file before default.
//!
//! Arguments are described once, to clap, which also reads the environment. What comes from `imgdex.toml` and from
//! secret files (`IMGDEX_STORE_FILE` and the like) becomes the *default* of its argument, so that one parser, one set of
//! checks and one precedence hold for every setting of every command.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

/// What every variable of this program begins with.
pub const PREFIX: &str = "IMGDEX_";

/// The one argument that cannot be in the file, which it names.
const CONFIG: &str = "IMGDEX_CONFIG";

/// A variable that nobody sets: what an argument reads whose own variable was read here.
const NOBODY: &str = "IMGDEX_";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The variable of the setting's name.
    Environment,
    /// A file that a variable `..._FILE` names.
    SecretFile(PathBuf),
    /// The configuration file.
    File(PathBuf),
    /// Nobody set it.
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
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{}: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        source: Box<toml::de::Error>,
    },
    /// No setting of this name.
    #[error("{}: there is no setting `{key}`; known: {}", path.display(), known.join(", "))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Every key.
        known: Vec<String>,
    },
    /// A value that its setting does not take.
    #[error("{provenance}: {setting}: {reason}")]
    Value {
        /// Where it stands.
        provenance: Provenance,
        /// Key or variable.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A variable and its `_FILE` variant.
    #[error("both {0} and {0}_FILE are set; one of them must go")]
    Both(String),
}

/// One setting, which several commands may share.
pub struct Setting {
    /// The variable.
    pub variable: String,
    /// Whether its value is not for other eyes.
    pub secret: bool,
    /// What holds where nobody sets it; empty where that depends.
    pub default: String,
    /// The arguments that it sets.
    args: Vec<Arg>,
}

impl Setting {
    /// The key in the configuration file: `IMGDEX_BULK_ITEMS` is `bulk_items`.
    pub fn key(&self) -> String {
        self.variable.trim_start_matches(PREFIX).to_lowercase()
    }

    /// A variable's value where it must be taken apart here: repeatable settings are separated by commas in the
    /// environment, but those whose values may hold commas are not on the command line.
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
    /// What is wrong with it, in one line.
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

/// Parses one value with an argument's own parser, away from its command.
fn check(arg: &Arg, value: &OsString) -> Result<(), String> {
    let mut alone =
        Arg::new("value").long("value").value_parser(arg.get_value_parser().clone()).allow_hyphen_values(true);
    if matches!(arg.get_action(), ArgAction::Append) {
        alone = alone.value_delimiter(arg.get_value_delimiter()).action(ArgAction::Append);
    }
    let command = Command::new("check").no_binary_name(true).arg(alone);
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

/// What the file and the secret files say.
#[derive(Debug, Default)]
pub struct Layers {
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    values: BTreeMap<String, Layered>,
    /// Variables that are set to nothing, which is how some orchestrators say that they are not set.
    empty: BTreeSet<String>,
}

#[derive(Debug)]
struct Layered {
    values: Vec<OsString>,
    provenance: Provenance,
    secret: bool,
}

impl Layers {
    /// Reads the configuration file, where there is one, and the files of secrets that `environment` names.
    ///
    /// # Errors
    /// See [`Error`]; unknown keys and values that do not fit are errors.
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

    /// Makes what was read the defaults of a command and its subcommands.
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
        let read = self.empty.contains(variable)
            || layered.is_some_and(|layered| layered.provenance == Provenance::Environment);
        let arg = if read { arg.env(NOBODY).hide_env(true) } else { arg };
        match layered {
            Some(layered) => arg.default_values(layered.values.clone()).hide_default_value(layered.secret),
            None => arg,
        }
    }

    /// The value of a setting, several joined by commas, and where it comes from; flags aside.
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
    let provenance = Provenance::File(path.to_owned());
    let wrong = |reason| Error::Value { provenance: provenance.clone(), setting: format!("`{key}`"), reason };
    let repeatable = setting.args.iter().any(|arg| matches!(arg.get_action(), ArgAction::Append));
    let values = texts(value, repeatable).map_err(wrong)?;
    let values: Vec<OsString> = values.into_iter().map(OsString::from).collect();
    for value in &values {
        setting.check(value).map_err(wrong)?;
    }
    Ok((setting.variable.clone(), Layered { values, provenance, secret: setting.secret }))
}

/// The texts that a TOML value stands for.
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
        toml::Value::Array(_) => Err("one value is needed, not a list".to_owned()),
        toml::Value::Datetime(_) | toml::Value::Table(_) => Err("neither text, number, true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests;
