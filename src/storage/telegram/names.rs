//! What documents are called, and what is written beneath them. The caption's last line is a mark by which the storage recognises a
//! document as its own.

use sha2::{Digest, Sha256};

use crate::{artifact::ArtifactName, ids::LeaseToken};

/// The longest stem that Telegram keeps: `clean_filename` in tdlib/td, tdutils/td/utils/filesystem.cpp. It also turns what is special on
/// some system into spaces, so the names here have nothing of that.
const LONGEST_STEM: usize = 64;
/// The longest caption, counted as Telegram counts: in UTF-16 units. Source: core.telegram.org/bots/api#senddocument.
const LONGEST_CAPTION: usize = 1024;
/// As much of the key as the caption shows.
const LONGEST_KEY: usize = 256;

/// The file name of a pinned index.
pub(super) const INDEX: &str = "holdfast-index.json.gz";
/// The file name of a probe.
pub(super) const PROBE: &str = "holdfast-probe";

/// The stem of an object's documents: its file name as far as it fits. One that is cut ends in a digest of the whole key.
pub(super) fn stem(key: &ArtifactName) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = key.file_name().chars().map(safe).collect();
    let name = name.trim_matches('.');
    if !name.is_empty() && name.len() <= LONGEST_STEM {
        return name.to_owned();
    }
    let digest = Sha256::digest(key.as_str().as_bytes());
    let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{digest}", &name[..name.len().min(LONGEST_STEM - 13)])
}

/// The name of part `number`, counted from 1: `cat NAME.part*` puts an object of up to 999 parts together.
pub(super) fn part(stem: &str, number: usize) -> String {
    format!("{stem}.part{number:03}")
}

/// The name of the document that lists an object's parts. What it is comes as the extension, so that the stem keeps its length.
pub(super) fn list(stem: &str) -> String {
    format!("{stem}.parts")
}

/// Recognises one document of one upload, whoever meets it.
pub(super) fn mark(upload: LeaseToken, what: &str) -> String {
    format!("holdfast {upload} {what}")
}

/// The caption: words for people, the key, and the mark, each a line; the words are cut to what is left.
pub(super) fn caption(words: Option<&str>, key: &str, mark: &str) -> String {
    let end = format!("{}\n{mark}", cut(key, LONGEST_KEY));
    let words = words.map(one_line).unwrap_or_default();
    let words = cut(&words, LONGEST_CAPTION.saturating_sub(units(&end) + 1));
    if words.is_empty() { end } else { format!("{words}\n{end}") }
}

/// Whether a caption has this mark, whole.
pub(super) fn has_mark(caption: Option<&str>, mark: &str) -> bool {
    caption.is_some_and(|caption| caption.lines().any(|line| line.trim() == mark))
}

/// Whether a caption has a mark of this upload.
pub(super) fn is_of(caption: Option<&str>, upload: LeaseToken) -> bool {
    let beginning = mark(upload, "");
    caption.is_some_and(|caption| caption.lines().any(|line| line.trim().starts_with(&beginning)))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// The beginning that fits, up to a whole character.
fn cut(text: &str, most: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.len_utf16();
        if used > most {
            return text[..at].trim_end();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ArtifactName {
        text.parse().unwrap()
    }

    #[test]
    fn file_names_survive_telegrams_cleaning() {
        assert_eq!(
            part(&stem(&key("backups/acme/backup-2026-11-21-020000-0123456789ab.sql.gz.age")), 7),
            "backup-2026-11-21-020000-0123456789ab.sql.gz.age.part007"
        );
        assert_eq!(part("x", 1000), "x.part1000");
        for odd in ["a/Übung <1>.sql", "a/...", "a/.hidden.", "a/b'c\"d|e?", &format!("a/{}", "x".repeat(255))] {
            let stem = stem(&key(odd));
            assert!(!stem.is_empty() && stem.len() <= 64, "{stem}");
            assert!(!stem.starts_with('.') && !stem.ends_with('.'), "{stem}");
            assert!(stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{stem}");
        }
        let long = "x".repeat(100);
        assert_ne!(stem(&key(&format!("a/{long}1"))), stem(&key(&format!("a/{long}2"))));
    }

    #[test]
    fn a_caption_fits_and_is_cut_between_characters() {
        let mark = mark(LeaseToken::generate(), "3");
        for words in [
            None,
            Some(""),
            Some("nightly"),
            Some(&*"é".repeat(2000)),
            Some(&*"🦀".repeat(2000)),
            Some(&*"a b\n".repeat(900)),
        ] {
            for key in ["k", &"schlüssel".repeat(100)] {
                let caption = caption(words, key, &mark);
                assert!(units(&caption) <= 1024, "{}", units(&caption));
                assert!(has_mark(Some(&caption), &mark), "{caption}");
                assert!(caption.lines().count() <= 3);
            }
        }
        let full = caption(Some(&"🦀".repeat(2000)), "k", &mark);
        assert!(units(&full) >= 1023);
    }

    #[test]
    fn a_mark_is_recognised_whole_or_not_at_all() {
        let (one, other) = (LeaseToken::generate(), LeaseToken::generate());
        let caption = caption(None, "k", &mark(one, "1"));
        assert!(has_mark(Some(&caption), &mark(one, "1")) && is_of(Some(&caption), one));
        assert!(!has_mark(Some(&caption), &mark(one, "11")) && !has_mark(Some(&caption), &mark(other, "1")));
        assert!(!is_of(Some(&caption), other) && !is_of(None, one));
    }
}
