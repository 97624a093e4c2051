//! What a proof of a database consists of: taken in the dump's snapshot, kept in the manifest, compared after a restore.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{artifact::Sha256Digest, manifest::SequenceValue};

crate::artifact::words! {
    /// How much of a database is proved when it is dumped.
    ProofLevel, "proof" {
        /// Every definition is recorded, and no rows are counted.
        Off = "off",
        /// That, and rows are counted.
        Counts = "counts",
        /// That, and a digest of every table's rows.
        Full = "full",
    }
}

/// The meaning of digests and facts that this code writes. Version 1 had the columns of each row in the order of their names.
pub const VERSION: u32 = 2;

/// What stands among the differences of a restore whose backup has level `off`: it came back, and nobody knows whether with all its rows.
pub const ROWS_NOT_COUNTED: &str = "no rows were counted to compare with (proof: off)";

/// The same of a backup without definitions: with level `off` none were recorded until November 2026.
pub const NOTHING_RECORDED: &str = "nothing was recorded to compare rows and definitions with (proof: off)";

/// Whether one of these is all that is told: nothing is known to differ, and no row was compared.
pub fn is_not_compared(differences: &[impl AsRef<str>]) -> bool {
    matches!(differences, [one] if [ROWS_NOT_COUNTED, NOTHING_RECORDED].contains(&one.as_ref()))
}

/// What was found in the snapshot beside the counts that every manifest has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    pub version: u32,
    pub level: ProofLevel,
    /// The encoding in which rows were read: the server's own, so that none fails to be converted.
    pub encoding: String,
    /// Of every table whose rows are in the dump; empty below [`ProofLevel::Full`].
    pub rows: Vec<RowsDigest>,
    /// SHA-256 of the definition's JSON, for people who compare two backups by eye. `None`: none was taken.
    pub definition_sha256: Option<Sha256Digest>,
    /// Every object, sorted. Empty for a partial backup, for one of level `off` until November 2026, and where there are too many.
    #[serde(with = "packed", default, skip_serializing_if = "Vec::is_empty")]
    pub definition: Vec<Defined>,
    /// Where those sequences stood after the dump that moved while it was taken: it holds a value in between.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved_sequences: Vec<SequenceValue>,
    /// Bytes that tables and indexes have on disk, as the last VACUUM or ANALYZE saw them.
    pub disk_bytes: u64,
}

impl Proof {
    /// Whether this code knows what it means. What a newer one writes is not compared.
    pub fn is_known(&self) -> bool {
        self.version <= VERSION
    }
}

/// A digest of a table's rows that does not depend on their order: the sum, modulo 2^256, of the SHA-256 of each row's line in
/// `COPY … TO STDOUT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowsDigest {
    pub schema: String,
    pub table: String,
    /// In their order in the lines, where a restored table may have them in another. None: in the table's own order, which is that of a plain
    /// dump; in version 1 in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    pub sha256_sum: Sha256Digest,
}

/// One object of a schema and what is worth knowing of it. What is as PostgreSQL makes it unless told otherwise is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Defined {
    /// `table`, `column`, `policy`…
    pub kind: String,
    /// Quoted and with its schema, as in a statement.
    pub name: String,
    pub facts: BTreeMap<String, String>,
}

/// The definition in a manifest: JSON, compressed by zstd, in base64. A schema of a thousand tables is a few megabytes of facts that repeat
/// each other.
mod packed {
    use std::io::Read as _;

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de, ser};

    use super::Defined;

    /// Longest JSON that is unpacked, in bytes: no manifest fills the memory.
    const LONGEST: u64 = 256 << 20;

    pub(super) fn serialize<S: Serializer>(definition: &[Defined], serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serde_json::to_vec(definition).map_err(ser::Error::custom)?;
        if json.len() as u64 > LONGEST {
            // What nobody could read again would make the whole manifest unreadable. Its digest stays.
            json = b"[]".to_vec();
        }
        let packed = zstd::encode_all(json.as_slice(), 3).map_err(ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(packed))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Defined>, D::Error> {
        let packed = STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)?;
        let mut json = Vec::new();
        let unpacked = zstd::Decoder::new(packed.as_slice()).map_err(de::Error::custom)?;
        unpacked.take(LONGEST + 1).read_to_end(&mut json).map_err(de::Error::custom)?;
        if json.len() as u64 > LONGEST {
            return Err(de::Error::custom("the definition is too long"));
        }
        serde_json::from_slice(&json).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_comes_back_from_json_and_a_large_definition_stays_small_in_it() {
        let facts = BTreeMap::from([("type".to_owned(), "integer".to_owned())]);
        let definition: Vec<Defined> = (0..20_000)
            .map(|i| Defined { kind: "column".to_owned(), name: format!("t.orders_{i}.id"), facts: facts.clone() })
            .collect();
        let proof = Proof {
            version: VERSION,
            level: ProofLevel::Full,
            encoding: "UTF8".to_owned(),
            rows: Vec::new(),
            definition_sha256: None,
            definition,
            moved_sequences: Vec::new(),
            disk_bytes: 0,
        };
        let text = serde_json::to_string(&proof).unwrap();
        assert!(text.len() < 200_000, "{}", text.len());
        assert_eq!(serde_json::from_str::<Proof>(&text).unwrap(), proof);
    }

    #[test]
    fn a_definition_that_would_fill_the_memory_is_refused() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(b' '), 257 << 20), 1).unwrap();
        let json = serde_json::json!({
            "version": 1, "level": "full", "encoding": "UTF8", "rows": [], "definition_sha256": null,
            "definition": STANDARD.encode(bomb), "disk_bytes": 0,
        });
        let error = serde_json::from_value::<Proof>(json).unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
    }
}
