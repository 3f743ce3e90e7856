//! What somebody may do: roles of members, and the scopes of API keys.

use std::fmt;
use std::str::FromStr;

/// A member's part in a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// May do everything, also end the workspace.
    Owner,
    /// May do everything but end the workspace.
    Admin,
    /// Works with sources, destinations, subscriptions and events.
    Member,
    /// Looks only.
    Viewer,
}

/// One thing that a request may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Look at what is there.
    Read,
    /// Change what is there; includes [`Scope::Read`].
    Write,
    /// Send test events through the front door.
    IngestTest,
    /// Manage keys and members; includes everything.
    Admin,
}

/// A set of scopes. Written space separated, as in OAuth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

/// A text that names no scope or role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not known here")]
pub struct UnknownName(pub String);

impl Role {
    /// The name in the store and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }

    /// What the role allows.
    pub fn scopes(self) -> Scopes {
        match self {
            Self::Owner | Self::Admin => Scopes::of(&Scope::ALL),
            Self::Member => Scopes::of(&[Scope::Read, Scope::Write, Scope::IngestTest]),
            Self::Viewer => Scopes::of(&[Scope::Read]),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        [Self::Owner, Self::Admin, Self::Member, Self::Viewer]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownName(text.to_owned()))
    }
}

impl Scope {
    /// Every scope, in the order they are written.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::IngestTest, Self::Admin];

    /// The name in the store and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::IngestTest => "ingest-test",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::IngestTest => 4,
            Self::Admin => 8,
        }
    }

    /// The scope with everything it includes.
    const fn covers(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2 | 1,
            Self::IngestTest => 4,
            Self::Admin => 15,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| UnknownName(text.to_owned()))
    }
}

impl Scopes {
    /// The set of these scopes and what they include.
    pub fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |bits, scope| bits | scope.covers()))
    }

    /// Whether the set allows `scope`.
    pub fn allows(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// What both sets allow: a key never does more than the user who made it.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `other` allows everything that this set does.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The scopes in the set, in a steady order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.allows(*scope))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

impl FromStr for Scopes {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let scopes = text.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<Scope>, _>>()?;
        Ok(Self::of(&scopes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_written_in_a_steady_order_with_what_they_include() {
        for (text, expected) in [
            ("read", "read"),
            ("write", "read write"),
            ("ingest-test read", "read ingest-test"),
            ("admin", "read write ingest-test admin"),
            ("", ""),
        ] {
            assert_eq!(text.parse::<Scopes>().unwrap().to_string(), expected, "{text}");
        }
        assert_eq!("read root".parse::<Scopes>(), Err(UnknownName("root".to_owned())));
    }

    #[test]
    fn a_key_never_does_more_than_its_user() {
        let key = "admin".parse::<Scopes>().unwrap();
        assert_eq!(key.within(Role::Viewer.scopes()).to_string(), "read");
        assert!(!key.is_within(Role::Member.scopes()));
        assert!(Role::Member.scopes().is_within(Role::Owner.scopes()));
        assert!(!Role::Member.scopes().allows(Scope::Admin));
    }

    #[test]
    fn roles_keep_their_names() {
        for role in [Role::Owner, Role::Admin, Role::Member, Role::Viewer] {
            assert_eq!(role.as_str().parse::<Role>(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
