//! The store under several processes, and under those that die.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use super::{Place, assert_says, json, refusal};

#[test]
fn of_several_builders_of_one_engine_one_builds() {
    let place = Place::new();
    let start = || {
        let mut command = place.engine("build", &["--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let builders: Vec<_> = (0..5).map(|_| start()).collect();
    let values: Vec<_> =
        builders.into_iter().map(|builder| json(&builder.wait_with_output().unwrap())).collect();
    assert_eq!(values.iter().filter(|value| value["built"] == true).count(), 1, "{values:?}");
    assert!(values.iter().all(|value| value["sidecar"] == values[0]["sidecar"]));
    json(&place.run(&["engine", "verify", "--json"]));
}

#[test]
fn builders_that_are_killed_leave_nothing_that_is_loaded() {
    let place = Place::new();
    for delay_ms in [0, 20, 40, 60, 80, 100, 130, 160, 200, 300, 500] {
        let mut command = place.engine("build", &["--force"]);
        let mut builder = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(delay_ms));
        builder.kill().unwrap();
        builder.wait().unwrap();
        let list = json(&place.run(&["engine", "list", "--json"]));
        let engines = list["engines"].as_array().unwrap();
        assert!(engines.iter().all(|engine| engine["sound"] == true), "after {delay_ms} ms: {list}");
    }
    place.build(&["--force"]);
    let left: Vec<_> = fs::read_dir(place.engines()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(left.len(), 3, "engine, sidecar and lock: {left:?}");
}

#[test]
fn damaged_engines_are_named_never_loaded_and_built_again() {
    let place = Place::new();
    let engine = place.build(&[]);
    let whole = fs::read(&engine).unwrap();
    fs::write(&engine, &whole[..whole.len() / 2]).unwrap();
    let line = refusal(&place.run(&["engine", "verify"]));
    assert_says(&line, &["the engine is damaged", "bytes", &engine.display().to_string()]);
    let list = json(&place.run(&["engine", "list", "--json"]));
    assert_eq!(list["engines"][0]["sound"], false);

    let again = json(&place.engine("build", &["--json"]).output().unwrap());
    assert_eq!(again["built"], true, "a damaged engine does not count");
    assert_eq!(fs::read(&engine).unwrap(), whole);
    assert_eq!(place.run(&["engine", "verify"]).status.code(), Some(0));

    let sidecar = engine.with_extension("json");
    let text = fs::read_to_string(&sidecar).unwrap();
    let cases = [
        (text.replace("\"1.7.1.116\"", "\"1.7.0.1\""), "changed or renamed"),
        (text.replace("\"key\"", "\"kee\""), "unknown field"),
        (text[..text.len() / 2].to_owned(), "EOF"),
    ];
    for (changed, why) in cases {
        fs::write(&sidecar, changed).unwrap();
        let line = refusal(&place.run(&["engine", "verify"]));
        assert_says(&line, &["sidecar is wrong", why, &sidecar.display().to_string()]);
    }
}

#[test]
fn a_store_that_cannot_be_written_has_the_status_of_files() {
    let place = Place::new();
    fs::write(place.engines(), b"a file, not a folder").unwrap();
    let output = place.engine("build", &[]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert_says(&text, &["cannot", &place.engines().display().to_string()]);
}
