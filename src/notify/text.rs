//! Words from outside on their way into a message: names that tenants chose, what tools and servers said.

/// One line of at most `most` characters. Whatever could end a line, hide or turn round what follows is a space: control characters, line and
/// paragraph separators, and the invisible and bidirectional ones of Unicode (its category Cf, as far as it is used to deceive).
pub(super) fn one_line(text: &str, most: usize) -> String {
    let line: String = text.chars().map(|c| if is_harmless(c) { c } else { ' ' }).collect();
    let line = line.trim();
    match line.char_indices().nth(most) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Text as HTML, in an element or in an attribute's quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_is_a_space() {
        assert_eq!(one_line("a\r\nBcc: x@y.z", 99), "a  Bcc: x@y.z");
        assert_eq!(one_line(" \u{202e}moc.live\u{200b}\u{2028}x\u{7} ", 99), "moc.live  x");
        assert_eq!(one_line("Ünal & Söhne 🚀", 99), "Ünal & Söhne 🚀");
        assert_eq!(one_line("abcdef", 3), "abc…");
        assert_eq!(one_line("abc", 3), "abc");
    }

    #[test]
    fn no_text_is_markup() {
        assert_eq!(escaped("<a href='x'>\"&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt;");
    }
}
