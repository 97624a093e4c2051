//! Seals as docs/recovery.md describes them, made without the code under test but for the signature itself.

use base64::{Engine, engine::general_purpose::STANDARD};
use holdfast::transform::SealKey;
use serde_json::{Value, json};

/// The file of a manifest with a fresh seal in the place of its own.
pub fn sealed(mut manifest: Value, key: &SealKey) -> Vec<u8> {
    manifest.as_object_mut().unwrap().remove("seal");
    let text = serde_json::to_string_pretty(&manifest).unwrap();
    let signed = text.strip_suffix("\n}").unwrap();
    let (id, signature) = (key.public().id(), STANDARD.encode(key.sign(signed.as_bytes())));
    format!("{signed},\n  \"seal\": {{\n    \"key\": \"{id}\",\n    \"ed25519\": \"{signature}\"\n  }}\n}}\n")
        .into_bytes()
}

/// A manifest as versions before there were seals wrote it.
pub fn unsealed(mut manifest: Value) -> Vec<u8> {
    manifest.as_object_mut().unwrap().remove("seal");
    serde_json::to_vec_pretty(&manifest).unwrap()
}

/// A manifest of some bytes that are neither compressed nor encrypted, without a seal.
pub fn plain(id: impl ToString, project: &str, key: &str, created_at: impl serde::Serialize, bytes: &[u8]) -> Value {
    let of = holdfast::artifact::Fingerprint::of(bytes);
    json!({
        "head": {
            "manifest_version": 1, "written_by": "a test", "backup_id": id.to_string(), "project_id": project, "type": "database",
            "key": key, "format": "sql", "compression": "none", "encryption": "none", "stored": of, "parts": [of],
            "created_at": created_at, "expires_at": null,
        },
        "body": { "content": of, "file": { "file_name": "a.sql" } },
    })
}
