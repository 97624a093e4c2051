use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use holdfast::postgres::connect::ConnectInfo;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::{CANARY, support};

/// The program on one control plane.
struct Holdfast {
    control: ConnectInfo,
    directory: tempfile::TempDir,
}

impl Holdfast {
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(arguments)
            // Nothing secret in the log either, however much it says.
            .arg("-vvv")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", self.control.to_url().expose_secret())
            .env("HOLDFAST_DATA_DIR", self.directory.path())
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that ends without reading it closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        for said in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(said);
            assert!(!text.contains(CANARY), "{arguments:?}: {text}");
        }
        output
    }

    #[track_caller]
    fn expect(&self, code: i32, arguments: &[&str], input: &str) -> (String, String) {
        let output = self.run(arguments, input);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        (stdout, stderr)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str], input: &str) -> Value {
        serde_json::from_str(&self.expect(0, arguments, input).0).unwrap()
    }
}

#[tokio::test]
async fn storages_databases_and_channels_are_managed_with_secrets_from_standard_input() {
    let holdfast =
        Holdfast { control: support::fresh_database("command_line").await, directory: tempfile::tempdir().unwrap() };
    holdfast.expect(0, &["migrate"], "");

    let toml = "type = 's3'\nbucket = 'b'\nregion = 'eu-1'\naccess_key = 'canary-id'\nsecret_key = 'canary-key'\n";
    let added = holdfast.json(&["storage", "add", "offsite", "--settings", "-", "--json"], toml);
    assert_eq!((&added["origin"], &added["settings"]["secret_key"]["set"]), (&"database".into(), &true.into()));
    let changed = holdfast.json(&["storage", "change", "offsite", "--settings", "-", "--json"], "prefix = 'team'");
    assert_eq!((&changed["settings"]["prefix"], &changed["settings"]["bucket"]), (&"team".into(), &"b".into()));
    let listed = holdfast.json(&["storage", "list", "--json"], "");
    let origins: Vec<(&str, &str)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|storage| (storage["name"].as_str().unwrap(), storage["origin"].as_str().unwrap()))
        .collect();
    assert_eq!(origins, [("local", "configuration"), ("offsite", "database")]);
    let (_, stderr) = holdfast.expect(2, &["storage", "add", "local", "--settings", "-"], toml);
    assert!(stderr.contains("already"), "{stderr}");
    let (_, stderr) = holdfast.expect(2, &["storage", "remove", "local"], "");
    assert!(stderr.contains("comes from the configuration"), "{stderr}");
    let (_, stderr) = holdfast.expect(2, &["storage", "add", "x", "--settings", "-"], "type = canary");
    assert!(stderr.contains("not valid TOML"), "{stderr}");
    let (stdout, _) = holdfast.expect(0, &["storage", "remove", "offsite", "--dry-run"], "");
    assert!(stdout.contains("would remove"), "{stdout}");
    holdfast.expect(0, &["storage", "remove", "offsite"], "");
    holdfast.expect(3, &["storage", "remove", "offsite"], "");

    let url = holdfast.control.to_url();
    holdfast.expect(0, &["database", "add", "here", "--url-file", "-"], url.expose_secret());
    let tested = holdfast.json(&["database", "test", "here", "--json"], "");
    assert_eq!(tested["good"], true, "{tested}");
    let (_, stderr) = holdfast.expect(2, &["database", "add", "x", "--url", "postgres://u:p@h/d"], "");
    assert!(stderr.contains("--url-file FILE"), "{stderr}");
    let changed = "postgres://u:canary@127.0.0.1:1/d";
    holdfast.expect(0, &["database", "change", "here", "--url-file", "-"], changed);
    holdfast.expect(1, &["database", "test", "here"], "");
    let listed = holdfast.json(&["database", "list", "--json"], "");
    assert_eq!((&listed[0]["name"], &listed[0]["port"]), (&"here".into(), &1.into()));
    holdfast.expect(0, &["database", "remove", "here"], "");

    let hook = r#"{"type": "webhook", "url": "http://10.0.0.1/x", "secret": "canary-of-a-webhook"}"#;
    let arguments = ["channel", "add", "ops", "--settings", "-", "--event", "failed", "--json"];
    let channel = holdfast.json(&arguments, hook);
    assert_eq!((&channel["events"][0], &channel["settings"]["secret"]["set"]), (&"failed".into(), &true.into()));
    assert_eq!(holdfast.json(&["channel", "list", "--json"], "").as_array().unwrap().len(), 1);
    holdfast.expect(0, &["channel", "remove", channel["id"].as_str().unwrap()], "");
    holdfast.expect(3, &["channel", "remove", channel["id"].as_str().unwrap()], "");
}
