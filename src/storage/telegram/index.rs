//! The pinned index: which objects are live in a chat, and where. One gzip-compressed JSON document; an object of more than one part
//! has its parts listed in a document of its own, so that an entry stays small (about 150 bytes compressed) whatever the object's size,
//! and an index of 100,000 objects still fits one document. One that does not is cut into parts, which the pinned document lists.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use bytes::Bytes;
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    artifact::ArtifactName,
    byte_size::ByteSize,
    storage::{Error, ErrorKind, Locator, TelegramPart},
};

/// The version that this code writes; readers refuse newer ones.
const VERSION: u32 = 1;
/// What a document may grow to when it is decompressed: someone else may have written it.
pub(super) const LARGEST: ByteSize = ByteSize::mib(256);

/// All live objects of a chat, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    objects: BTreeMap<String, Entry>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub key: ArtifactName,
    pub bytes: u64,
    /// The chat in which its messages are: not always the index's own, when a group has become a supergroup.
    pub chat_id: i64,
    #[serde(flatten)]
    pub place: Place,
}

/// Where an object's documents are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// The documents themselves: one, or none of an empty object.
    Parts(Vec<TelegramPart>),
    /// A document that lists them.
    List {
        /// The first part's message, which tells this object from another of the same name.
        first_message_id: i64,
        #[serde(flatten)]
        document: TelegramPart,
    },
}

/// The document that lists an object's parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartList {
    pub key: ArtifactName,
    pub parts: Vec<TelegramPart>,
}

/// The pinned document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IndexDocument {
    holdfast_index: u32,
    chat_id: i64,
    /// The message that held the index before this one.
    predecessor: Option<i64>,
    #[serde(flatten)]
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Objects(Vec<Entry>),
    /// The index itself, cut: the concatenation of these documents is a document with `objects`.
    Parts(Vec<TelegramPart>),
}

/// What a document held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Whole(Index),
    Cut(Vec<TelegramPart>),
}

impl Entry {
    pub fn new(key: ArtifactName, bytes: u64, chat_id: i64, place: Place) -> Self {
        Self { key, bytes, chat_id, place }
    }

    /// Whether these messages, the first one first, are this object's.
    pub fn begins_at(&self, chat_id: i64, messages: &[i64]) -> bool {
        let first = messages.first().copied();
        self.first_message() == first && (first.is_none() || self.chat_id == chat_id)
    }

    /// Whether this message may be one of the object's: with a list, one of the parts, which lie before it.
    pub fn may_hold(&self, chat_id: i64, message: i64) -> bool {
        self.chat_id == chat_id
            && match &self.place {
                Place::Parts(parts) => parts.iter().any(|part| part.message_id == message),
                Place::List { first_message_id, document } => {
                    (*first_message_id..=document.message_id).contains(&message)
                }
            }
    }

    pub fn first_message(&self) -> Option<i64> {
        match &self.place {
            Place::Parts(parts) => parts.first().map(|part| part.message_id),
            Place::List { first_message_id, .. } => Some(*first_message_id),
        }
    }

    /// Whether a locator's messages are this object's.
    pub fn is_at(&self, chat_id: i64, messages: &[TelegramPart]) -> bool {
        let first: Option<i64> = messages.first().map(|part| part.message_id);
        self.begins_at(chat_id, first.as_slice())
    }

    /// The locator, given the listed parts where there is a list.
    pub fn locator(&self, listed: Option<Vec<TelegramPart>>) -> Locator {
        let messages = match (&self.place, listed) {
            (Place::Parts(parts), _) => parts.clone(),
            (Place::List { .. }, listed) => listed.unwrap_or_default(),
        };
        Locator::Telegram { key: self.key.clone(), chat_id: self.chat_id, messages }
    }
}

impl Index {
    pub fn get(&self, key: &ArtifactName) -> Option<&Entry> {
        self.objects.get(key.as_str())
    }

    pub fn insert(&mut self, entry: Entry) {
        self.objects.insert(entry.key.as_str().to_owned(), entry);
    }

    pub fn remove(&mut self, key: &ArtifactName) {
        self.objects.remove(key.as_str());
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.objects.values()
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// The document to pin.
    pub fn encode(&self, chat_id: i64, predecessor: Option<i64>) -> Result<Bytes, Error> {
        let content = Content::Objects(self.objects.values().cloned().collect());
        pack(&IndexDocument { holdfast_index: VERSION, chat_id, predecessor, content })
    }

    /// The document to pin in front of an index that was cut into `parts`.
    pub fn encode_cut(chat_id: i64, predecessor: Option<i64>, parts: Vec<TelegramPart>) -> Result<Bytes, Error> {
        pack(&IndexDocument { holdfast_index: VERSION, chat_id, predecessor, content: Content::Parts(parts) })
    }

    /// Reads a pinned document, or the concatenation of its parts, and for which chat it was made. [`ErrorKind::Corrupt`] when it is no index, [`ErrorKind::Invalid`]
    /// when a newer program wrote it.
    pub fn decode(document: &[u8]) -> Result<(i64, Decoded), Error> {
        #[derive(Deserialize)]
        struct Versioned {
            holdfast_index: u32,
        }
        let json = unpack(document)?;
        let Versioned { holdfast_index: version } = parse(&json)?;
        if version > VERSION {
            let context =
                format!("the pinned index has version {version}, and this program knows versions up to {VERSION}");
            return Err(Error::new(ErrorKind::Invalid, context).with_hint("Use a newer Holdfast."));
        }
        let document: IndexDocument = parse(&json)?;
        let decoded = match document.content {
            Content::Objects(entries) => {
                let mut index = Self::default();
                entries.into_iter().for_each(|entry| index.insert(entry));
                Decoded::Whole(index)
            }
            Content::Parts(parts) => Decoded::Cut(parts),
        };
        Ok((document.chat_id, decoded))
    }
}

impl PartList {
    pub fn encode(&self) -> Result<Bytes, Error> {
        pack(self)
    }

    pub fn decode(document: &[u8]) -> Result<Self, Error> {
        parse(&unpack(document)?)
    }
}

fn pack(document: &impl Serialize) -> Result<Bytes, Error> {
    let failed = |error: std::io::Error| Error::new(ErrorKind::Invalid, "cannot write an index").with_source(error);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    serde_json::to_writer(&mut encoder, document).map_err(|error| failed(error.into()))?;
    encoder.flush().map_err(failed)?;
    Ok(encoder.finish().map_err(failed)?.into())
}

fn unpack(document: &[u8]) -> Result<Vec<u8>, Error> {
    let mut json = Vec::new();
    let mut reader = MultiGzDecoder::new(document).take(LARGEST.0 + 1);
    reader
        .read_to_end(&mut json)
        .map_err(|error| Error::new(ErrorKind::Corrupt, "cannot decompress an index").with_source(error))?;
    if json.len() as u64 > LARGEST.0 {
        return Err(Error::new(ErrorKind::TooLarge, format!("an index of more than {LARGEST}")));
    }
    Ok(json)
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json)
        .map_err(|error| Error::new(ErrorKind::Corrupt, "cannot read an index").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Fingerprint, Sha256Digest};

    fn part(message_id: i64) -> TelegramPart {
        // As unlike each other as real ones.
        let text: String = Sha256Digest::of(&message_id.to_le_bytes()).to_string();
        TelegramPart {
            message_id,
            file_id: format!("BQACAgIAAx0CY{text}"),
            file_unique_id: format!("AgAD{}", &text[..12]),
            fingerprint: Fingerprint { bytes: 19 << 20, sha256: Sha256Digest::of(text.as_bytes()) },
        }
    }

    fn entry(key: &str, place: Place) -> Entry {
        Entry::new(key.parse().unwrap(), 5, -100, place)
    }

    fn index() -> Index {
        let mut index = Index::default();
        index.insert(entry("empty", Place::Parts(Vec::new())));
        index.insert(entry("one", Place::Parts(vec![part(1)])));
        index.insert(entry("many", Place::List { first_message_id: 2, document: part(9) }));
        index
    }

    #[test]
    fn an_index_reads_back_as_it_was_written() {
        let bytes = index().encode(-100, Some(7)).unwrap();
        assert_eq!(Index::decode(&bytes).unwrap(), (-100, Decoded::Whole(index())));
        let json: serde_json::Value = serde_json::from_slice(&unpack(&bytes).unwrap()).unwrap();
        assert_eq!(json["holdfast_index"], 1);
        assert_eq!(json["predecessor"], 7);
        assert_eq!(json["objects"][1]["list"]["first_message_id"], 2);
        assert_eq!(json["objects"][1]["list"]["message_id"], 9);
        assert_eq!(json["objects"][2]["parts"][0]["message_id"], 1);
        let cut = Index::encode_cut(-100, None, vec![part(1), part(2)]).unwrap();
        assert_eq!(Index::decode(&cut).unwrap(), (-100, Decoded::Cut(vec![part(1), part(2)])));
        let list = PartList { key: "many".parse().unwrap(), parts: vec![part(2), part(3)] };
        assert_eq!(PartList::decode(&list.encode().unwrap()).unwrap(), list);
    }

    #[test]
    fn what_is_no_index_is_refused() {
        let gz = |json: &str| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(json.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let kind = |bytes: &[u8]| Index::decode(bytes).unwrap_err().kind;
        let whole = index().encode(-100, None).unwrap();
        assert_eq!(kind(b""), ErrorKind::Corrupt);
        assert_eq!(kind(b"<html>"), ErrorKind::Corrupt);
        assert_eq!(kind(&whole[..whole.len() - 1]), ErrorKind::Corrupt);
        assert_eq!(kind(&gz("{}")), ErrorKind::Corrupt);
        let evil = r#"{"holdfast_index":1,"chat_id":1,"predecessor":null,"objects":[{"key":"../x","bytes":0,"chat_id":1,"parts":[]}]}"#;
        assert_eq!(kind(&gz(evil)), ErrorKind::Corrupt);
        assert_eq!(kind(&gz(r#"{"holdfast_index":2,"elsewhere":[]}"#)), ErrorKind::Invalid);
    }

    #[test]
    fn a_thousand_backups_take_less_than_400_kib() {
        let mut index = Index::default();
        for number in 0..1_000 {
            let key = format!("backups/acme/backup-2026-11-21-{number:06}-0123456789ab.sql.gz.age");
            index.insert(entry(&key, Place::List { first_message_id: number, document: part(number) }));
            index.insert(entry(&format!("{key}.manifest.json"), Place::Parts(vec![part(number)])));
        }
        let bytes = index.encode(-100, None).unwrap();
        assert!((bytes.len() as u64) < ByteSize::kib(400).0, "{}", bytes.len());
        assert_eq!(Index::decode(&bytes).unwrap(), (-100, Decoded::Whole(index)));
    }

    #[test]
    fn an_object_is_told_from_another_of_its_name() {
        let (one, many, empty) = ([part(1)], [part(2), part(3)], entry("empty", Place::Parts(Vec::new())));
        let index = index();
        let at = |key: &str| index.get(&key.parse().unwrap()).unwrap().clone();
        assert!(at("one").is_at(-100, &one) && !at("one").is_at(-100, &many));
        assert!(!at("one").is_at(-200, &one) && !at("one").is_at(-100, &[]));
        assert!(at("many").is_at(-100, &many) && empty.is_at(-100, &[]) && !empty.is_at(-100, &one));
    }
}
