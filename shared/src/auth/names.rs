//! E-mail addresses and user names: what is accepted, and the form in which two of them are the same.

/// An e-mail address as written, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// As the user wrote it, without surrounding space.
    pub text: String,
    /// In lower case: two addresses with one key are one account.
    pub key: String,
}

/// A user name as written, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Username {
    /// As the user wrote it.
    pub text: String,
    /// In lower case: two names with one key are one account.
    pub key: String,
}

impl Email {
    /// Accepts what can be an address; whether it is one, only a message to it can tell.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (local, domain) = text.rsplit_once('@')?;
        let acceptable = text.len() <= 254
            && (1..=64).contains(&local.len())
            && !local.contains('@')
            && !domain.is_empty()
            && !domain.starts_with(['.', '-'])
            && !domain.ends_with(['.', '-'])
            && !domain.contains("..")
            && domain.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':'))
            && !text
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"' | ',' | ';' | '\\'));
        acceptable.then(|| Self { text: text.to_owned(), key: text.to_lowercase() })
    }

    /// What stands before the `@`, in lower case.
    pub fn local_part(&self) -> &str {
        self.key.rsplit_once('@').map_or(self.key.as_str(), |(local, _)| local)
    }
}

impl Username {
    /// Accepts 3 to 40 letters, digits, `.`, `_` and `-` of ASCII, so that no two names look alike.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let acceptable = (3..=40).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        acceptable.then(|| Self { text: text.to_owned(), key: text.to_ascii_lowercase() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_accepted_by_form_and_compared_in_lower_case() {
        for (text, key) in [
            ("Ada@Example.COM", Some("ada@example.com")),
            (" ada+hooks@localhost ", Some("ada+hooks@localhost")),
            ("ädä@exämple.com", Some("ädä@exämple.com")),
            ("ada", None),
            ("@example.com", None),
            ("ada@", None),
            ("ada@ex ample.com", None),
            ("ada@a@b.com", None),
            ("ada@.com", None),
            ("ada@exa..mple.com", None),
            ("ada\n@example.com", None),
            ("Ada <ada@example.com>", None),
        ] {
            assert_eq!(Email::parse(text).map(|e| e.key).as_deref(), key, "{text}");
        }
    }

    #[test]
    fn user_names_are_short_ascii_words() {
        for (text, key) in [
            ("Ada", Some("ada")),
            ("a.b_c-9", Some("a.b_c-9")),
            ("ab", None),
            ("a b c", None),
            ("ada@x", None),
            ("аda", None), // Cyrillic
            ("", None),
        ] {
            assert_eq!(Username::parse(text).map(|u| u.key).as_deref(), key, "{text}");
        }
        assert!(Username::parse(&"a".repeat(40)).is_some());
        assert!(Username::parse(&"a".repeat(41)).is_none());
    }
}
