//! Names and texts as SQL. Every name from outside is looked up in the catalog first and quoted here.

/// A name as a quoted identifier: `q"q` becomes `"q""q"`.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"schema"."name"`.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// A text as a literal that means the same whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A name as a pattern of `pg_dump -n` that matches exactly that name: inside double quotes nothing is special.
pub fn dump_pattern(name: &str) -> String {
    ident(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_cannot_be_left() {
        assert_eq!(ident("q\"q"), "\"q\"\"q\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(qualified("MySchema", "a.b"), "\"MySchema\".\"a.b\"");
    }
}
