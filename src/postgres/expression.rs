//! Texts that the server writes anew from what it has parsed are not always the same after a restore, though they mean the same.

/// Characters of a fact that are kept as they are; a longer one is kept as its digest.
const LONGEST: usize = 240;

/// Writes a text the way that the server does after a restore.
///
/// `status IN ('a', 'b')` on a column of type `varchar` is written `(ARRAY['a'::character varying, …])::text[]`; read from a dump, the cast
/// goes to the elements: `ARRAY[('a'::character varying)::text, …]`. Source: `transformTypeCast` and `transformArrayExpr` in PostgreSQL's
/// parse_expr.c. So it does here.
pub fn settled(text: &str) -> String {
    let mut settled = text.to_owned();
    // From the right, so that arrays inside of others come first; each one found is one less.
    let mut before = settled.len();
    while let Some(at) = settled[..before].rfind("(ARRAY[") {
        if let Some((end, replacement)) = distributed(&settled[at..]) {
            settled.replace_range(at..at + end, &replacement);
        }
        before = at;
    }
    settled
}

/// For a text that begins with `(ARRAY[a, b])::T[]`: how long that is, and what stands for it.
fn distributed(text: &str) -> Option<(usize, String)> {
    const OPENING: usize = "(ARRAY[".len();
    let (elements, inner) = elements(&text[OPENING..])?;
    let rest = text[OPENING + inner..].strip_prefix(")::")?;
    let is_of_type = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '_' | '.' | '"' | '(' | ')' | ',');
    let type_length = rest.find("[]").filter(|length| *length > 0 && rest[..*length].chars().all(is_of_type))?;
    let of_type = &rest[..type_length];
    let cast: Vec<String> = elements.iter().map(|element| format!("({element})::{of_type}")).collect();
    let end = OPENING + inner + ")::".len() + type_length + "[]".len();
    Some((end, format!("ARRAY[{}]", cast.join(", "))))
}

/// The elements up to the bracket that closes the array, and how long they are with it. `None` for what is not understood.
fn elements(text: &str) -> Option<(Vec<&str>, usize)> {
    let (mut found, mut begin, mut depth) = (Vec::new(), 0, 0usize);
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            // A doubled quote ends one text and begins the next, which comes to the same.
            '\'' | '"' => {
                characters.by_ref().find(|(_, c)| *c == character)?;
            }
            // Inside E'…' a quote may be behind one: such texts are left as they are.
            '\\' => return None,
            '(' | '[' => depth += 1,
            ']' if depth == 0 => {
                found.push(text[begin..at].trim());
                return Some((found, at + 1));
            }
            ')' | ']' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                found.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    None
}

/// A text as a fact keeps it: whole when it is short, else its beginning, its length and its digest.
pub fn kept(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(60).collect();
    let digest = crate::artifact::Sha256Digest::of(text.as_bytes());
    format!("{beginning}… ({} characters, SHA-256 {digest})", text.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrays_cast_goes_to_its_elements_as_after_a_restore() {
        for (written, after) in [
            (
                "((status)::text = ANY ((ARRAY['a'::character varying, 'b, ]'::character varying])::text[]))",
                "((status)::text = ANY (ARRAY[('a'::character varying)::text, ('b, ]'::character varying)::text]))",
            ),
            ("(ARRAY['it''s'::bpchar])::text[]", "ARRAY[('it''s'::bpchar)::text]"),
            (
                "x = ANY ((ARRAY[f(1, 2), (g[1])])::\"My\".mood[])",
                "x = ANY (ARRAY[(f(1, 2))::\"My\".mood, ((g[1]))::\"My\".mood])",
            ),
            ("(ARRAY['a'::text])::character varying(10)[]", "ARRAY[('a'::text)::character varying(10)]"),
        ] {
            assert_eq!(settled(written), after);
            assert_eq!(settled(after), after, "a second time changes nothing");
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for text in [
            "",
            "ARRAY[1, 2]",
            "(ARRAY[1, 2])",
            "(ARRAY['a",
            "(ARRAY['a'])::",
            "(ARRAY[E'\\''])::text[]",
            "'(ARRAY['",
            "(a + b) * c",
        ] {
            assert_eq!(settled(text), text);
        }
    }

    #[test]
    fn long_texts_are_told_apart_by_their_digest() {
        let (one, other) = ("x".repeat(10_000), format!("{}y", "x".repeat(9_999)));
        assert!(kept(&one).len() < 200 && kept(&one) != kept(&other));
        assert_eq!(kept("short"), "short");
    }
}
