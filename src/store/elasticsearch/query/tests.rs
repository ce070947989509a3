#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use strum::VariantArray;

use super::*;
use crate::embedding::Embedding;

fn query(mode: Mode) -> Query {
    Query {
        target: Target::Embedding(Embedding::from_unit(vec![0.6, 0.8]).unwrap()),
        mode,
        k: 3,
        min_similarity: None,
        collection: None,
        filters: BTreeMap::new(),
        approximate: false,
    }
}

#[test]
fn every_score_script_is_guarded_and_makes_one_call_on_the_field_s_name() {
    for &mode in Mode::VARIANTS {
        let script = score_script(mode);
        assert!(script.starts_with("doc['image_vector'].size() == 0 ? 0 : "), "{script}");
        assert_eq!(script.matches("(params.query_vector, 'image_vector')").count(), 1, "{script}");
    }
}

#[test]
fn filters_exclude_and_narrow() {
    let mut query = query(Mode::Cosine);
    query.target = Target::Id("me".to_owned());
    query.collection = Some("cats".to_owned());
    query.filters.insert("author.name".to_owned(), "Ann".to_owned());
    let body = search(&query, &[0.6, 0.8]).into_json();
    let filter = &body["query"]["script_score"]["query"]["bool"]["filter"];
    let expected = json!([
        { "term": { "collection": "cats" } },
        { "term": { "metadata.author.name": "Ann" } },
        { "bool": { "must_not": { "ids": { "values": ["me"] } } } },
        { "exists": { "field": "image_vector" } },
        live(),
    ]);
    assert_eq!(filter, &expected);
    assert_eq!(body["size"], 3);
    assert!(body["query"]["script_score"].get("min_score").is_none());
}

#[test]
fn the_vector_is_a_parameter_and_never_part_of_a_source() {
    let body = search(&query(Mode::L2), &[0.6, 0.8]).into_json();
    let vector: Vec<f32> =
        serde_json::from_value(body["query"]["script_score"]["script"]["params"]["query_vector"].clone()).unwrap();
    assert_eq!(vector, [0.6, 0.8]);
    assert_eq!(body["script_fields"]["raw"]["script"]["params"], body["query"]["script_score"]["script"]["params"]);
}

#[test]
fn approximate_takes_candidates_from_the_graph_and_scores_them_exactly() {
    let mut query = query(Mode::L2);
    query.approximate = true;
    query.collection = Some("cats".to_owned());
    for (k, candidates) in [(3, 200), (50, 500), (5000, 10_000)] {
        query.k = k;
        let body = search(&query, &[0.6, 0.8]).into_json();
        let filter = &body["query"]["script_score"]["query"]["bool"]["filter"];
        assert_eq!(filter[1], live());
        let knn = &filter[0]["knn"];
        assert_eq!((&knn["k"], &knn["num_candidates"]), (&json!(candidates), &json!(candidates)));
        assert_eq!(knn["filter"], json!([{ "term": { "collection": "cats" } }]));
        assert_eq!(body["query"]["script_score"]["script"]["source"], score_script(Mode::L2));
    }
}

#[test]
fn refused_queries() {
    for (mode, approximate, value, refused) in [
        (Mode::L1, true, 0.6, true),
        (Mode::L1, false, 0.6, false),
        (Mode::Cosine, true, -0.6, false),
        (Mode::Dot, false, -0.6, true),
        (Mode::Dot, true, 0.6, false),
    ] {
        let mut query = query(mode);
        query.approximate = approximate;
        assert_eq!(refusal(&query, &[value, 0.8]).is_some(), refused, "{mode:?} {approximate} {value}");
    }
}

fn response(raws: &[(&str, f64)]) -> Vec<u8> {
    let hits: Vec<_> = raws
        .iter()
        .map(|(id, raw)| {
            let source = json!({ "id": id, "url": "u", "collection": "c", "metadata": { "n": 1 } });
            json!({ "_id": id, "_score": 1.0, "_source": source, "fields": { "raw": [raw] } })
        })
        .collect();
    json!({ "hits": { "hits": hits } }).to_string().into_bytes()
}

#[test]
fn hits_have_the_three_numbers_and_are_ordered_by_score_then_by_id() {
    // All three have the same float32 score, so Elasticsearch orders them by id.
    let found = hits(&query(Mode::L2), &response(&[("a", 0.100_000_001), ("b", 0.1), ("c", 0.1)])).unwrap();
    let order: Vec<_> = found.iter().map(|hit| (hit.rank, hit.id.as_str())).collect();
    assert_eq!(order, [(1, "b"), (2, "c"), (3, "a")]);
    assert_eq!(found[0].measure, Mode::L2.measure(0.1));
    assert_eq!(found[0].metadata["n"], 1);
}

#[test]
fn a_hit_of_exactly_the_least_similarity_stays() {
    for &mode in Mode::VARIANTS {
        let raw = 0.1;
        let mut query = query(mode);
        let similarity = mode.measure(raw).similarity;
        query.min_similarity = Some(similarity);
        let other = if matches!(mode, Mode::L1 | Mode::L2) { raw + 1e-9 } else { raw - 1e-9 };
        let found = hits(&query, &response(&[("in", raw), ("out", other)])).unwrap();
        assert_eq!(found.len(), 1, "{mode:?}");
        let bound = search(&query, &[0.6, 0.8]).into_json()["query"]["script_score"]["min_score"].as_f64().unwrap();
        assert!(bound < f64::from(mode.measure(raw).score as f32), "{mode:?}: {bound}");
    }
}

#[test]
fn a_list_continues_after_an_id() {
    assert!(list(None, 5).into_json().get("search_after").is_none());
    assert_eq!(list(Some("x"), 5).into_json()["search_after"], json!(["x"]));
    let tombstone = json!({ "id": "c", "version": 4, "collection": "cats", "indexed_at": 9 });
    let body = json!({ "hits": { "hits": [
        { "_source": { "id": "a", "version": 3, "url": "u" }, "fields": { "image_vector": [0.6, 0.8] } },
        { "_source": { "id": "b" } },
        { "_source": tombstone },
        // Of another writer: the vector says that it is live.
        { "_source": tombstone, "fields": { "image_vector": [0.6, 0.8] } },
    ] } });
    let found = page(body.to_string().as_bytes()).unwrap();
    let [Stored::Live(a), Stored::Live(b), Stored::Deleted(c), Stored::Live(d)] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!((a.id.as_str(), a.version), ("a", 3));
    assert_eq!(a.embedding.as_ref().map(Embedding::as_slice), Some(&[0.6, 0.8][..]));
    assert_eq!(b.embedding, None);
    assert_eq!((c.id.as_str(), c.version, c.deleted_at_ms), ("c", 4, 9));
    assert_eq!(d.id, "c");

    let damaged =
        json!({ "hits": { "hits": [{ "_source": { "id": "a" }, "fields": { "image_vector": [0.6, 0.9] } }] } });
    assert!(page(damaged.to_string().as_bytes()).unwrap_err().to_string().starts_with("document \"a\""));
}

/// What every body says about the documents that it is about; `live` and `purge` test what it means.
fn live() -> Value {
    let either = json!([{ "exists": { "field": "url" } }, { "exists": { "field": "image_vector" } }]);
    json!({ "bool": { "should": either, "minimum_should_match": 1 } })
}

#[test]
fn a_tombstone_is_found_with_what_its_deletion_needs() {
    let body = old_tombstones(7, Some("x"), 5).into_json();
    let filter = &body["query"]["bool"]["filter"];
    assert_eq!(filter[0]["range"]["indexed_at"]["lt"], 7);
    assert_eq!(filter[1]["range"]["version"]["lt"], LARGEST_VERSION);
    let lacks = filter[2]["bool"]["must_not"].as_array().unwrap();
    assert!(["url", "image_vector", "width"].iter().all(|field| lacks.contains(&json!({"exists": {"field": field}}))));
    assert_eq!(filter[2]["bool"]["filter"].as_array().unwrap().len(), 4);
    let hit = json!({ "_index": "i", "_id": "a", "_seq_no": 3, "_primary_term": 1, "_source": {}, "sort": ["a"] });
    let found = found_tombstones(json!({ "hits": { "hits": [hit] } }).to_string().as_bytes()).unwrap();
    assert_eq!(
        (found[0].index.as_str(), found[0].id.as_str(), found[0].seq_no, found[0].primary_term),
        ("i", "a", 3, 1)
    );
}

#[test]
fn unexpected_responses_are_errors() {
    assert!(hits(&query(Mode::L1), b"{}").is_err());
    assert!(vector(b"<html>").is_err());
    assert!(page(b"[]").is_err());
    assert_eq!(vector(br#"{"hits":{"hits":[]}}"#).unwrap(), None);
}
