//! Offline tests of the schemas: CEL with kube's interpreter, everything else by inspecting the CRD. Tests
//! with a real API server are in `tests/it`.

use serde_json::{Value, json};

use super::*;

fn job(spec: Value) -> TranscodeJob {
    let object = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob",
        "metadata": {"name": "film"}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn pool(spec: Value) -> WorkerPool {
    let object = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool",
        "metadata": {"name": "default"}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn schema(crd: &CustomResourceDefinition) -> Value {
    serde_json::to_value(crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn a_video_is_named_in_exactly_one_way() {
    for good in [json!({"key": "a.mp4"}), json!({"url": "https://example.com/a.mp4"}), json!({"upload": {}})]
    {
        job(json!({"input": good})).validate_cel().unwrap();
    }
    for bad in [
        json!({}),
        json!({"key": "a.mp4", "url": "https://example.com/a.mp4"}),
        json!({"key": "a.mp4", "upload": {}}),
        json!({"key": "a.mp4", "url": "https://example.com/a.mp4", "upload": {}}),
    ] {
        let error = job(json!({"input": bad})).validate_cel().unwrap_err().to_string();
        assert!(error.contains("exactly one of key, url, upload"), "{error}");
    }
}

#[test]
fn what_a_job_does_is_fixed_and_when_it_does_it_is_not() {
    let base = json!({
        "input": {"key": "a.mp4"}, "preset": "hls", "qualities": ["360p"],
        "webhook": {"url": "https://example.com/hook", "secretRef": {"name": "hook"}},
    });
    let with = |field: &str, value: Value| {
        let mut spec = base.clone();
        spec[field] = value;
        job(spec)
    };
    let without = |field: &str| {
        let mut spec = base.clone();
        spec.as_object_mut().unwrap().remove(field);
        job(spec)
    };
    let old = job(base.clone());
    for (field, new) in [
        ("input", with("input", json!({"key": "b.mp4"}))),
        ("input", with("input", json!({"upload": {}}))),
        ("preset", with("preset", json!("default"))),
        ("priority", with("priority", json!(1))),
        ("workerClass", with("workerClass", json!("large"))),
        ("backoffLimit", with("backoffLimit", json!(0))),
        ("qualities", with("qualities", json!(["720p"]))),
        ("qualities", without("qualities")),
        ("webhook", with("webhook", json!({"url": "https://example.com/b", "secretRef": {"name": "hook"}}))),
        ("webhook", with("webhook", json!({"url": "https://example.com/hook", "secretRef": {"name": "b"}}))),
        ("webhook", without("webhook")),
    ] {
        let error = new.validate_cel_update(&old).unwrap_err().to_string();
        assert!(error.contains(&format!("{field} cannot be changed")), "{field}: {error}");
    }
    // Adding an optional field is a change, too.
    let error = old.validate_cel_update(&without("qualities")).unwrap_err().to_string();
    assert!(error.contains("qualities cannot be changed"), "{error}");
    for (field, value) in [
        ("suspend", json!(true)),
        ("activeDeadlineSeconds", json!(60)),
        ("ttlSecondsAfterFinished", json!(0)),
    ] {
        with(field, value).validate_cel_update(&old).unwrap();
    }
}

#[test]
fn parallelism_is_auto_or_a_number_of_chunks() {
    // The rule asks for a value's type, which only a real API server evaluates (`operator::refused`).
    let is_read = |value: Value| {
        let spec = json!({"input": {"key": "a.mp4"}, "parallelism": value});
        serde_json::from_value::<TranscodeJobSpec>(spec).is_ok()
    };
    assert!([json!("auto"), json!(1), json!(256)].into_iter().all(is_read));
    assert!(![json!(0), json!(257), json!("many")].into_iter().any(is_read));
}

#[test]
fn a_pool_has_no_more_at_least_than_at_most() {
    pool(json!({"min": 2, "max": 2})).validate_cel().unwrap();
    let error = pool(json!({"min": 3, "max": 2})).validate_cel().unwrap_err().to_string();
    assert!(error.contains("min must not be more than max"), "{error}");
}

#[test]
fn a_pools_guest_is_a_size_that_fly_sells() {
    let guest = |size: &str, memory: i32| {
        pool(json!({"provider": {"fly": {"guest": {"size": size, "memoryMb": memory}}}}))
    };
    pool(json!({"provider": {"fly": {"guest": {"size": "performance-2x"}}}})).validate_cel().unwrap();
    for (size, memory) in [
        ("performance-2x", 4096),
        ("performance-2x", 16_384),
        ("performance-16x", 131_072),
        ("shared-cpu-1x", 256),
        ("shared-cpu-8x", 16_384),
    ] {
        guest(size, memory).validate_cel().unwrap();
    }
    for (size, memory) in [
        ("performance-2x", 512),
        ("performance-2x", 4352),
        ("performance-2x", 17_408),
        ("shared-cpu-4x", 512),
        ("shared-cpu-1x", 4096),
        // Independent of the other rules of the schema.
        ("performance-3x", 6144),
    ] {
        let error = guest(size, memory).validate_cel().unwrap_err().to_string();
        assert!(error.contains("memoryMb does not fit the size"), "{size} {memory}: {error}");
    }
    let [_, pools] = all();
    let spec = &schema(&pools)["properties"]["spec"]["properties"];
    let fly = &spec["provider"]["properties"]["fly"]["properties"];
    let sizes = &fly["guest"]["properties"]["size"]["enum"];
    let sizes: Vec<&str> = sizes.as_array().unwrap().iter().map(|size| size.as_str().unwrap()).collect();
    assert!(sizes.contains(&"performance-2x") && sizes.contains(&"shared-cpu-8x"), "{sizes:?}");
    assert!(!sizes.contains(&"performance-3x") && sizes.len() == 14, "{sizes:?}");
    let guests = &fly["guests"];
    assert_eq!(guests["items"]["enum"], fly["guest"]["properties"]["size"]["enum"]);
    assert_eq!(guests["x-kubernetes-list-type"], "set", "no size twice");
}

#[test]
fn the_schema_of_a_guest_and_the_settings_agree_at_every_limit() {
    use crate::flyprovider::Guest;
    use crate::flyprovider::guest::{RULES, Rule};
    for rule @ Rule { cpus, least, most, .. } in RULES {
        for (size, cpus) in rule.sizes().zip(cpus) {
            let (least, most) = (least * cpus, most * cpus);
            for memory in [least - 256, least, least + 256, least + 1024, most, most + 256, most + 1024] {
                let guest: Guest = size.parse().unwrap();
                let spec = pool(json!({"provider": {"fly": {"guest": {"size": size, "memoryMb": memory}}}}));
                assert_eq!(spec.validate_cel().is_ok(), guest.with_memory(memory).is_ok(), "{size} {memory}");
            }
        }
    }
}

#[test]
fn what_is_left_out_has_a_default_in_the_schema_and_the_same_in_code() {
    let [jobs, pools] = all();
    let said = job(json!({"input": {"key": "a.mp4"}})).spec;
    let said = serde_json::to_value(said).unwrap();
    let properties = schema(&jobs)["properties"]["spec"]["properties"].clone();
    for field in ["preset", "priority", "workerClass", "suspend", "backoffLimit", "ttlSecondsAfterFinished"] {
        assert_eq!(properties[field]["default"], said[field], "{field}");
        assert!(!said[field].is_null(), "{field}");
    }
    let said = serde_json::to_value(pool(json!({})).spec).unwrap();
    let properties = schema(&pools)["properties"]["spec"]["properties"].clone();
    for field in ["workerClasses", "min", "max", "jobsPerMachine", "idleTimeoutSeconds", "paused"] {
        assert_eq!(properties[field]["default"], said[field], "{field}");
        assert!(!said[field].is_null(), "{field}");
    }
    let fly = pool(json!({"provider": {"fly": {}}})).spec.provider.unwrap().fly.unwrap();
    let properties = &properties["provider"]["properties"]["fly"]["properties"];
    assert_eq!(properties["strictRegions"]["default"], json!(fly.strict_regions));
}

/// The API server estimates the cost of CEL from these limits: without one, it may reject the CRD.
#[test]
fn every_string_and_list_of_a_spec_has_a_limit() {
    fn walk(path: &str, schema: &Value, without: &mut Vec<String>) {
        let limited = match schema["type"].as_str() {
            Some("string") => schema.get("maxLength").is_some() || schema.get("enum").is_some(),
            Some("array") => schema.get("maxItems").is_some(),
            _ => true,
        };
        if !limited {
            without.push(path.to_owned());
        }
        walk_all(path, schema, without);
    }
    fn walk_all(path: &str, schema: &Value, without: &mut Vec<String>) {
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), inner, without);
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items, without);
        }
    }
    for crd in all() {
        let mut without = Vec::new();
        walk(".spec", &schema(&crd)["properties"]["spec"], &mut without);
        assert_eq!(without, Vec::<String>::new());
    }
}

#[test]
fn texts_that_cannot_be_used_are_rejected_with_what_is_wanted() {
    let with = |input: Value, url: &str, secret: &str, key: &str| {
        let webhook = json!({"url": url, "secretRef": {"name": secret, "key": key}});
        job(json!({"input": input, "webhook": webhook})).validate_cel()
    };
    let (video, url) = (json!({"key": "films/a.mp4"}), "https://example.com/");
    with(video.clone(), url, "hook.films", "a_b.c-D").unwrap();
    with(json!({"url": "HTTPS://[::1]:8443/a"}), url, "hook", "secret").unwrap();
    with(json!({"key": "é".repeat(512)}), url, "hook", "secret").unwrap();
    for (told, rejected) in [
        (
            "an http or https address",
            with(json!({"url": "https://user:hush@example.com/"}), url, "hook", "secret"),
        ),
        ("an http or https address", with(video.clone(), "https://example.com:99999/", "hook", "secret")),
        ("a path in the input bucket", with(json!({"key": "../secrets"}), url, "hook", "secret")),
        ("longer than 1024 bytes", with(json!({"key": "é".repeat(513)}), url, "hook", "secret")),
        ("name must be that of a Secret", with(video.clone(), url, "../hook", "secret")),
        ("key must be one of a Secret", with(video, url, "hook", "a/b")),
    ] {
        let error = rejected.unwrap_err().to_string();
        assert!(error.contains(told) && !error.contains("hush"), "{told}: {error}");
    }
    pool(json!({"image": "registry.example/worker:1"})).validate_cel().unwrap();
    let error = pool(json!({"image": "worker 1"})).validate_cel().unwrap_err().to_string();
    assert!(error.contains("without spaces"), "{error}");
}

#[test]
fn classes_of_workers_are_names() {
    // What the rules reject is not read either, so that only an API server can show that they reject it.
    let [jobs, pools] = all();
    for (crd, field) in [(jobs, "workerClass"), (pools, "workerClasses")] {
        let schema = &schema(&crd)["properties"]["spec"]["properties"][field];
        let rules = schema["x-kubernetes-validations"].as_array().unwrap();
        assert_eq!(rules.len(), 1, "{field}");
        assert!(rules[0]["rule"].as_str().unwrap().contains(crate::job::WorkerClass::PATTERN), "{rules:?}");
        assert!(rules[0]["message"].as_str().unwrap().starts_with(&format!("{field} must be")), "{rules:?}");
    }
    job(json!({"input": {"key": "a.mp4"}, "workerClass": "4k-hdr"})).validate_cel().unwrap();
    pool(json!({"workerClasses": ["default", "large"]})).validate_cel().unwrap();
}

#[test]
fn keys_fit_the_pattern_if_they_can_be_parsed() {
    use crate::job::ObjectKey;
    use proptest::prelude::*;

    let pattern = jsonschema::validator_for(&serde_json::json!({"pattern": rules::OBJECT_KEY})).unwrap();
    let agrees = |key: &str| {
        let fits = pattern.is_valid(&key.into());
        assert_eq!(fits, key.parse::<ObjectKey>().is_ok(), "{key:?}");
    };
    for key in
        ["a", ".", "..", "...", "a/..", "../a", "a/.b", "a\\..\\b", "a//b", "/", "", "a\u{85}", "..a/b.."]
    {
        agrees(key);
    }
    proptest!(|(key in "[a./\\\\\u{1}é ]{0,12}")| agrees(&key));
}

#[test]
fn ports_of_addresses_fit_the_pattern_up_to_the_largest() {
    let pattern = jsonschema::validator_for(&serde_json::json!({"pattern": rules::PLAIN_URL})).unwrap();
    for port in (0..=99_999).step_by(7).chain([65_534, 65_535, 65_536, 66_000, 70_000]) {
        let url = format!("https://films.example:{port}/a.mp4");
        assert_eq!(pattern.is_valid(&url.clone().into()), port <= 65_535, "{url}");
    }
    for (url, fits) in [
        ("HTTP://films.example", true),
        ("https://[::1]:8443/a", true),
        ("https://films.example:/a", true),
        ("https://films.example?a=b", true),
        ("https://user@films.example/", false),
        ("https://user:word@films.example/", false),
        ("https://films.example:8o/", false),
        ("https://films.example/a b", false),
        ("https:///a", false),
        ("ftp://films.example/", false),
    ] {
        assert_eq!(pattern.is_valid(&url.into()), fits, "{url}");
    }
}

/// Only the formats that Kubernetes knows: any other causes a warning at every apply.
#[test]
fn numbers_have_formats_that_kubernetes_knows() {
    for crd in all() {
        let text = serde_json::to_string(&crd).unwrap();
        for foreign in ["uint", "\"format\":\"int8\"", "\"format\":\"int16\""] {
            assert!(!text.contains(foreign), "{foreign}");
        }
    }
}

#[test]
fn the_manifests_hold_what_the_types_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/crds/crds.yaml");
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(there == yaml().unwrap(), "manifests/crds/crds.yaml is not up to date; run: make crds");
}

#[test]
fn both_versions_are_served_with_one_schema_and_one_is_stored() {
    for crd in all() {
        let [stored, beta] = crd.spec.versions.as_slice() else { panic!("{crd:?}") };
        assert_eq!((stored.name.as_str(), beta.name.as_str()), ("v1alpha1", BETA));
        assert!(stored.served && stored.storage && beta.served && !beta.storage);
        assert_eq!(stored.schema, beta.schema);
        assert_eq!(crd.spec.conversion, None, "the API server converts by changing apiVersion alone");
    }
}
