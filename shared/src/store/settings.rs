//! Small facts about the installation itself: the set-up token's hash, the encryption check, the queue's layout.

use crate::q;

use super::Store;

impl Store {
    /// The value of a setting, if it was ever set.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn setting(&self, name: &str) -> sqlx::Result<Option<String>> {
        let row = q!(&self.db, fetch_optional as (String,), "SELECT value FROM setting WHERE name = $1", name)?;
        Ok(row.map(|(value,)| value))
    }

    /// Sets a setting.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn set_setting(&self, name: &str, value: &str) -> sqlx::Result<()> {
        q!(
            &self.db,
            execute,
            "INSERT INTO setting (name, value, updated_ms) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_ms = excluded.updated_ms",
            name,
            value,
            self.now_ms()
        )?;
        Ok(())
    }

    /// Sets a setting that is a number, unless it has a larger one.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn raise_setting(&self, name: &str, value: i64) -> sqlx::Result<()> {
        q!(
            &self.db,
            execute,
            "INSERT INTO setting (name, value, updated_ms) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_ms = excluded.updated_ms
             WHERE CAST(setting.value AS BIGINT) < CAST(excluded.value AS BIGINT)",
            name,
            value.to_string(),
            self.now_ms()
        )?;
        Ok(())
    }

    /// Sets a setting unless it is there, and gives the value that holds.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn setting_or_insert(&self, name: &str, value: &str) -> sqlx::Result<String> {
        q!(
            &self.db,
            execute,
            "INSERT INTO setting (name, value, updated_ms) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
            name,
            value,
            self.now_ms()
        )?;
        Ok(self.setting(name).await?.unwrap_or_else(|| value.to_owned()))
    }
}
