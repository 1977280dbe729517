//! What authentication needs of the world: the files of keys, the time of day, random letters, and the work of bcrypt.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bcrypt::Version;
use tokio::sync::Semaphore;

use super::random::Random;
use crate::auth::AuthError;
use crate::auth::jwt::Jwt;
use crate::auth::options::{AuthOptionsError, JwtOptions};
use crate::error::StoreError;
use crate::limits;

/// Reads the key files and checks them.
///
/// # Errors
/// When a file cannot be read or holds no key of that kind.
pub fn load(options: &JwtOptions) -> Result<Jwt, AuthOptionsError> {
    let wrong = |reason: String| AuthOptionsError { flag: "--auth-token", reason };
    let read = |path: &Option<std::path::PathBuf>| path.as_deref().map(read).transpose();
    let (private, public) = (read(&options.priv_key).map_err(wrong)?, read(&options.pub_key).map_err(wrong)?);
    Jwt::new(options.method, private.as_deref(), public.as_deref(), options.ttl)
        .map_err(|error| wrong(error.to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Seconds since 1970: only tokens that other programs read carry the time of day.
#[must_use]
pub fn time_of_day_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The letters of a new simple token, 91 bits of randomness.
#[must_use]
pub fn token_letters(random: &dyn Random) -> String {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let letter = |number: u64| char::from(LETTERS[usize::try_from(number % 52).expect("below 52")]);
    (0..16).map(|_| letter(random.next_u64())).collect()
}

/// bcrypt takes tens of milliseconds of a processor: few run at once, beside the runtime's threads, and few may wait.
#[derive(Debug)]
pub struct PasswordWork {
    running: Semaphore,
    waiting: Semaphore,
    cost: u32,
}

impl PasswordWork {
    #[must_use]
    pub fn new(cost: u32) -> Self {
        Self {
            running: Semaphore::new(limits::PASSWORDS_RUNNING),
            waiting: Semaphore::new(limits::PASSWORDS_WAITING),
            cost,
        }
    }

    /// The bcrypt text of a password.
    ///
    /// # Errors
    /// `PasswordTooLong`, or `TooManyRequests` when too many passwords wait for their turn.
    pub async fn hash(&self, password: String) -> Result<String, StoreError> {
        if password.len() > limits::PASSWORD_BYTES_MAX {
            return Err(AuthError::PasswordTooLong.into());
        }
        let cost = self.cost;
        let hashed = self.run(move || bcrypt::hash_with_result(password, cost)).await?;
        // The version that Go writes, so that a copy of this data means the same to etcd.
        hashed.map(|parts| parts.format_for_version(Version::TwoA)).map_err(|_| AuthError::Failed.into())
    }

    /// Whether a password is the one of a bcrypt text; an empty or damaged text is nobody's.
    ///
    /// # Errors
    /// `TooManyRequests` when too many passwords wait for their turn.
    pub async fn verify(&self, password: String, hash: String) -> Result<bool, StoreError> {
        Ok(self.run(move || bcrypt::verify(password, &hash)).await?.unwrap_or(false))
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
        let _place = self.waiting.try_acquire().map_err(|_| StoreError::TooManyRequests)?;
        let _turn = self.running.acquire().await.map_err(|_| StoreError::Stopped)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::jwt::SignMethod;
    use crate::io::random::SeededRandom;

    #[tokio::test]
    async fn a_password_is_hashed_as_go_hashes_it() {
        let work = PasswordWork::new(4);
        let hash = work.hash("secret".to_owned()).await.unwrap();
        assert!(hash.starts_with("$2a$04$"), "{hash}");
        assert_eq!(work.verify("secret".to_owned(), hash.clone()).await, Ok(true));
        assert_eq!(work.verify("Secret".to_owned(), hash).await, Ok(false));
        assert_eq!(work.verify(String::new(), String::new()).await, Ok(false));
        // As golang.org/x/crypto/bcrypt made it.
        let known = "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        assert_eq!(work.verify("allmine".to_owned(), known.to_owned()).await, Ok(true));
        assert_eq!(work.hash("x".repeat(73)).await, Err(AuthError::PasswordTooLong.into()));
    }

    #[test]
    fn tokens_are_sixteen_letters() {
        let random = SeededRandom::new(1);
        let (first, second) = (token_letters(&random), token_letters(&random));
        assert!(first != second && first.len() == 16 && first.bytes().all(|byte| byte.is_ascii_alphabetic()));
    }

    #[test]
    fn a_missing_key_file_names_the_flag_and_the_file() {
        let options = JwtOptions {
            method: SignMethod::Rs256,
            pub_key: None,
            priv_key: Some("/nowhere/key".into()),
            ttl: std::time::Duration::from_secs(1),
        };
        let error = load(&options).unwrap_err().to_string();
        assert!(error.starts_with("--auth-token: /nowhere/key: "), "{error}");
    }
}
