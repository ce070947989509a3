//! A store of an earlier release, which decoded JPEG with other roundings.

use imgdex::testing::model::Manifest;

use super::{Home, IMAGES};

fn warnings(stderr: &str) -> usize {
    stderr.matches("the store holds vectors of an earlier release").count()
}

#[test]
fn a_store_of_the_earlier_decoder_is_used_only_where_that_is_accepted() {
    const FLAG: &str = "--accept-earlier-decoder";
    let home = Home::new();
    let (photos, store) = (home.photos(), format!("sqlite:{}", home.text("old.db")));
    let store = ["--store", &store];
    let index = ["index", "--model", "stub", &photos];
    home.run(&[&index[..], &store].concat()).exits(0);
    let connection = rusqlite::Connection::open(home.path("old.db")).unwrap();
    let set = |fingerprint: &str| connection.execute("UPDATE meta SET fingerprint = ?1", [fingerprint]).unwrap();
    let stub = Manifest::find("stub").unwrap();
    set(&stub.earlier[0].fingerprint);

    let query = home.text("photos/baseline-420.jpg");
    let (export, other) = (home.text("export.ndjson"), format!("sqlite:{}", home.text("new.db")));
    let commands = [
        &["search", &query][..],
        &index,
        &["mappings", "apply", "--model", "stub"],
        &["mappings", "prune", "--tombstones", "--older-than", "99d"],
    ];
    for command in commands {
        let refused = home.run(&[command, &store].concat()).exits(64);
        let refused = refused.says(&stub.earlier[0].fingerprint).says("an earlier release made it with the same model");
        let refused = refused.says("make a new store and index the images again, or pass --accept-earlier-decoder");
        assert_eq!(warnings(&refused.stderr()), 0, "{command:?}");
        let accepted = home.run(&[command, &store, &[FLAG]].concat()).exits(0);
        assert_eq!(warnings(&accepted.stderr()), 1, "{command:?}: {}", accepted.stderr());
    }
    home.run(&[&["mappings", "status"], &store[..]].concat()).exits(1).says("an earlier release");
    home.run(&[&["mappings", "status", FLAG], &store[..]].concat()).exits(0);
    let mut command = home.command(&["search", &query, store[0], store[1]]);
    let found = super::Ran(command.env("IMGDEX_ACCEPT_EARLIER_DECODER", "true").output().unwrap()).exits(0);
    assert_eq!(found.lines().len(), IMAGES.len());

    // An export keeps the fingerprint that its vectors have.
    home.run(&[&["export", &export], &store[..]].concat()).exits(0);
    home.run(&["import", &export, "--store", &other]).exits(64).says("--accept-earlier-decoder");
    home.run(&["import", &export, "--store", &other, FLAG]).exits(0);

    set("0123");
    home.run(&["search", &query, store[0], store[1], FLAG]).exits(64).says("; index the images again");
}
