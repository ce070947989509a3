#![allow(clippy::unwrap_used)]
use clap::Parser;
use clap::parser::ValueSource;

use super::*;

#[derive(Parser, Debug)]
#[command(name = "program")]
struct Program {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    Run {
        /// A secret
        #[arg(long, env = "IMGDEX_T_STORE", hide_env_values = true)]
        store: Option<String>,
        #[arg(long, env = "IMGDEX_T_COUNT", default_value_t = 3)]
        count: u16,
        #[arg(long, env = "IMGDEX_T_PORT", value_delimiter = ',')]
        port: Vec<u16>,
        #[arg(long, env = "IMGDEX_T_BOLD")]
        bold: bool,
        #[arg(long, env = "IMGDEX_T_PAIR")]
        pair: Vec<String>,
    },
}

fn command() -> Command {
    <Program as clap::CommandFactory>::command()
}

fn layers(toml: &str, environment: &[(&str, &str)]) -> Result<Layers, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imgdex.toml");
    std::fs::write(&path, toml).unwrap();
    let find = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
    Layers::read(&command(), Some(path), find).map_err(|error| error.to_string())
}

#[test]
fn the_file_overrides_defaults_and_flags_override_the_file() {
    let layers = layers("t_count = 5\nt_port = [80, 81]\nt_bold = true\n", &[]).unwrap();
    let parse = |flags: &[&str]| {
        let arguments = ["program", "run"].iter().chain(flags);
        let matches = layers.apply(command()).try_get_matches_from(arguments).unwrap();
        matches.subcommand_matches("run").unwrap().clone()
    };
    let matches = parse(&[]);
    assert_eq!(matches.get_one::<u16>("count"), Some(&5));
    assert_eq!(matches.get_many::<u16>("port").unwrap().collect::<Vec<_>>(), [&80, &81]);
    assert!(matches.get_flag("bold"));
    assert!(matches.get_one::<String>("store").is_none());
    let matches = parse(&["--count", "7", "--port", "90"]);
    assert_eq!(matches.get_one::<u16>("count"), Some(&7));
    assert_eq!(matches.value_source("count"), Some(ValueSource::CommandLine));
    assert_eq!(matches.get_many::<u16>("port").unwrap().collect::<Vec<_>>(), [&90]);
}

#[test]
fn unknown_keys_and_invalid_values_are_refused_by_name() {
    for (toml, expected) in [
        ("t_cuont = 5", "there is no setting `t_cuont`; known: t_bold, t_count, t_pair, t_port, t_store"),
        ("t_count = 70000", "`t_count`: invalid value '70000': 70000 is not in 0..=65535"),
        ("t_count = [1]", "`t_count`: expected one value, not a list"),
        ("t_bold = 1", "`t_bold`: invalid value '1'"),
        ("[t_port]\na = 1", "`t_port`: expected text"),
        ("t_count = ", "TOML parse error at line 1"),
    ] {
        let message = layers(toml, &[]).unwrap_err();
        assert!(message.contains("imgdex.toml: ") && message.contains(expected), "{toml}: {message}");
    }
}

#[test]
fn a_secret_comes_from_a_file_and_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::write(&path, "http://user:pass@host/a\n").unwrap();
    let variable = ("IMGDEX_T_STORE_FILE", path.to_str().unwrap());
    let layers_of = |extra: &[(&str, &str)]| layers("t_store = \"other\"", &[&[variable], extra].concat());
    let layers = layers_of(&[]).unwrap();
    let settings = settings(&command());
    let (value, provenance) = layers.value(&settings["IMGDEX_T_STORE"], |_| None);
    assert_eq!((value.as_str(), provenance), ("http://user:pass@host/a", Provenance::SecretFile(path.clone())));
    let help = layers.apply(command()).try_get_matches_from(["program", "run", "--help"]).unwrap_err().to_string();
    assert!(help.contains("A secret") && !help.contains("pass@"), "{help}");
    assert!(layers_of(&[("IMGDEX_T_STORE", "x")]).unwrap_err().contains("unset one of them"));
    std::fs::write(&path, "\n").unwrap();
    assert!(layers_of(&[]).unwrap_err().contains("the file is empty"));
}

#[test]
fn an_empty_variable_is_not_set_and_commas_separate_only_in_the_environment() {
    let parse = |environment: &[(&str, &str)], flags: &[&str]| {
        let layers = layers("t_count = 5\nt_pair = [\"x=1,2\", \"y\"]", environment).unwrap();
        let arguments = ["program", "run"].iter().chain(flags);
        let matches = layers.apply(command()).try_get_matches_from(arguments).unwrap();
        matches.subcommand_matches("run").unwrap().clone()
    };
    let pairs = |matches: &clap::ArgMatches| matches.get_many::<String>("pair").unwrap().cloned().collect::<Vec<_>>();
    assert_eq!(pairs(&parse(&[], &[])), ["x=1,2", "y"]);
    assert_eq!(pairs(&parse(&[("IMGDEX_T_PAIR", "a=1,b=2")], &[])), ["a=1", "b=2"]);
    assert_eq!(pairs(&parse(&[("IMGDEX_T_PAIR", "a=1,b=2")], &["--pair", "c=1,2"])), ["c=1,2"]);
    let matches = parse(&[("IMGDEX_T_COUNT", ""), ("IMGDEX_T_PAIR", "")], &[]);
    assert_eq!(
        (matches.get_one::<u16>("count"), pairs(&matches)),
        (Some(&5), vec!["x=1,2".to_owned(), "y".to_owned()])
    );
}
