//! Failed log-ins, counted by account and by address.

use super::{Store, Tx};
use crate::auth::{Allowance, Subject};
use crate::clock::Millis;
use crate::{q, row};

row! {
    struct Row { failures: i64, blocked_until: i64, updated_ms: i64 }
}

impl Store {
    /// Counts a try before it is made, so that many at once are counted too; or says how long to wait.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn count_try(&self, subjects: &[Subject]) -> sqlx::Result<Option<Millis>> {
        let now = self.now_ms();
        // In one order everywhere, so that two tries never wait for each other.
        let mut subjects: Vec<&Subject> = subjects.iter().collect();
        subjects.sort_by(|a, b| a.key.cmp(&b.key));
        let mut tx = self.db.begin().await?;
        let mut failures = Vec::with_capacity(subjects.len());
        for subject in &subjects {
            let row = find(&mut tx, &subject.key).await?;
            match row {
                Some(row) if row.blocked_until > now => return Ok(Some(row.blocked_until - now)),
                Some(row) if now - row.updated_ms < Allowance::FORGET => failures.push(row.failures + 1),
                _ => failures.push(1),
            }
        }
        for (subject, failures) in subjects.into_iter().zip(failures) {
            q!(
                tx &mut tx,
                execute,
                "INSERT INTO login_throttle (subject, failures, blocked_until, updated_ms) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (subject) DO UPDATE
                 SET failures = excluded.failures, blocked_until = excluded.blocked_until, updated_ms = excluded.updated_ms",
                &subject.key,
                failures,
                now + subject.allowance.wait(failures),
                now
            )?;
        }
        tx.commit().await?;
        Ok(None)
    }

    /// How long a subject still has to wait, without counting anything.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn wait_of(&self, subject: &Subject) -> sqlx::Result<Option<Millis>> {
        let now = self.now_ms();
        let row = q!(
            &self.db,
            fetch_optional as (i64,),
            "SELECT blocked_until FROM login_throttle WHERE subject = $1 AND blocked_until > $2",
            &subject.key,
            now
        )?;
        Ok(row.map(|(until,)| until - now))
    }

    /// Forgets what failed for a subject, and for all who were quiet for long.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn forget_tries(&self, subject: &Subject) -> sqlx::Result<()> {
        q!(
            &self.db,
            execute,
            "DELETE FROM login_throttle WHERE subject = $1 OR (updated_ms < $2 AND blocked_until < $2)",
            &subject.key,
            self.now_ms() - Allowance::FORGET
        )
        .map(|_| ())
    }
}

/// On Postgres the row is locked until the try is counted; SQLite has one writer anyway.
async fn find(tx: &mut Tx, key: &str) -> sqlx::Result<Option<Row>> {
    q!(
        tx tx,
        fetch_optional as Row,
        {
            pg: "SELECT failures, blocked_until, updated_ms FROM login_throttle WHERE subject = $1 FOR UPDATE",
            sqlite: "SELECT failures, blocked_until, updated_ms FROM login_throttle WHERE subject = $1"
        },
        key
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts_for_tests::*;

    #[tokio::test]
    async fn failures_make_both_the_account_and_the_address_wait_but_never_for_good() {
        for (store, _dir) in stores().await {
            let account = Subject::account("ada");
            let address = |n: u8| Subject::address("login", std::net::IpAddr::from([192, 0, 2, n]));
            for n in 0..11 {
                assert_eq!(store.count_try(&[account.clone(), address(n)]).await.unwrap(), None, "try {n}");
            }
            let wait = store.count_try(&[account.clone(), address(99)]).await.unwrap().unwrap();
            assert!((500..=1_000).contains(&wait), "{wait}");
            assert!(store.wait_of(&account).await.unwrap().is_some());
            assert_eq!(store.wait_of(&address(99)).await.unwrap(), None);
            assert_eq!(store.count_try(&[Subject::account("bob"), address(1)]).await.unwrap(), None, "another account");
            store.clock.advance(1_000);
            assert_eq!(store.count_try(&[account.clone(), address(99)]).await.unwrap(), None);
            let wait = store.count_try(&[account.clone(), address(99)]).await.unwrap().unwrap();
            assert!((1_500..=2_000).contains(&wait), "{wait}");
            store.forget_tries(&account).await.unwrap();
            assert_eq!(store.count_try(&[account.clone(), address(99)]).await.unwrap(), None, "logged in");

            for n in 0..21 {
                assert_eq!(
                    store.count_try(&[Subject::account(&format!("user{n}")), address(77)]).await.unwrap(),
                    None,
                    "try {n}"
                );
            }
            assert!(
                store.count_try(&[Subject::account("other"), address(77)]).await.unwrap().is_some(),
                "one address, many accounts"
            );
            for _ in 0..30 {
                store.clock.advance(Allowance::FORGET / 4);
                assert_eq!(
                    store.count_try(&[account.clone(), address(77)]).await.unwrap(),
                    None,
                    "fifteen minutes are always enough"
                );
            }
        }
    }
}
