//! Tests that `docs/summary.schema.json` describes what is written.

use serde_json::{Value, json};

use super::summary::tests::example;

/// The part of JSON Schema that `docs/summary.schema.json` uses; any other keyword is an error, never ignored.
fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = match schema["$ref"].as_str() {
        Some(path) => root.pointer(path.trim_start_matches('#')).ok_or(format!("no {path}"))?,
        None => schema,
    };
    let is = |name: &Value| match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("null") => value.is_null(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        _ => panic!("{at}: unknown type {name}"),
    };
    let missing = |key: &&Value| key.as_str().is_none_or(|key| value.get(key).is_none());
    for (keyword, rule) in schema.as_object().ok_or(format!("{at}: not a schema"))? {
        let number = value.as_f64();
        let good = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "$ref" => true,
            "type" => rule.as_array().map_or_else(|| is(rule), |names| names.iter().any(is)),
            "const" => rule == value,
            "enum" => rule.as_array().is_some_and(|values| values.contains(value)),
            "minimum" => number.is_none_or(|n| Some(n) >= rule.as_f64()),
            "maximum" => number.is_none_or(|n| Some(n) <= rule.as_f64()),
            "required" => {
                !value.is_object() || rule.as_array().and_then(|keys| keys.iter().find(missing)).is_none()
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}[{i}]"))?;
                }
                true
            }
            "properties" => {
                for (key, rule) in rule.as_object().ok_or("properties")? {
                    if let Some(item) = value.get(key) {
                        check(root, rule, item, &format!("{at}.{key}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                for (key, item) in value.as_object().into_iter().flatten() {
                    if schema["properties"].get(key).is_none() {
                        if *rule == json!(false) {
                            return Err(format!("{at}.{key} is not in the schema"));
                        }
                        check(root, rule, item, &format!("{at}.{key}"))?;
                    }
                }
                true
            }
            _ => panic!("{at}: keyword {keyword} is not checked here"),
        };
        if !good {
            return Err(format!("{at}: {value} against {keyword} {rule}"));
        }
    }
    Ok(())
}

/// Whether a value of `summary.json` is what the schema says.
pub(super) fn validate(summary: &Value) -> Result<(), String> {
    let schema = serde_json::from_str(include_str!("../../docs/summary.schema.json")).expect("JSON");
    check(&schema, &schema, summary, "summary")
}

#[test]
fn the_schema_accepts_a_summary_and_nothing_less() {
    let good: Value = serde_json::from_str(&example().to_json()).unwrap();
    assert_eq!(validate(&good), Ok(()));
    for key in good.as_object().unwrap().keys() {
        let mut less = good.clone();
        less.as_object_mut().unwrap().remove(key);
        assert!(validate(&less).is_err(), "{key} is not required");
    }
    for (pointer, wrong) in [
        ("/schema", json!(2)),
        ("/mode", json!("fast")),
        ("/fps", json!("3.1")),
        ("/miou/refined", json!(61.0)),
        ("/per_class_iou/0/label", json!(256)),
        ("/stage_ms/segment", json!({"p50": 1.0})),
        ("/size", json!({"width": 1, "height": 1, "depth": 3})),
        ("/frames_rejected/undecodable", json!(-1)),
    ] {
        let mut other = good.clone();
        *other.pointer_mut(pointer).unwrap() = wrong;
        assert!(validate(&other).is_err(), "{pointer}");
    }
}
