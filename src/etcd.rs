//! How the program's own commands reach an etcd v3 endpoint: etcdctl's flags and environment.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::auth_client::AuthClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// A connection, with the token of whoever uses it.
pub type Connection = InterceptedService<Channel, Token>;

/// Large answers need not wait for the client to say that it has taken the first part.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Who calls, and whom they trust.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Access {
    /// The authorities that a server's certificate must come from [default: those of the system].
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CACERT")]
    cacert: Option<PathBuf>,
    /// The certificate to show.
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CERT", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long, value_name = "FILE", env = "ETCDCTL_KEY", requires = "cert")]
    key: Option<PathBuf>,
    /// The user to call as: NAME:PASSWORD, or NAME with --password.
    #[arg(long, env = "ETCDCTL_USER", hide_env_values = true)]
    user: Option<String>,
    /// The password of that user, who may then have a colon in the name.
    #[arg(long, env = "ETCDCTL_PASSWORD", hide_env_values = true, requires = "user")]
    password: Option<String>,
}

impl Access {
    /// Connects, and logs in where there is a user; `endpoint` is a URL, or `host:port` for plain TCP.
    ///
    /// # Errors
    /// When a file or the endpoint cannot be used, or the user may not log in.
    pub async fn connect(&self, endpoint: &str) -> Result<Connection> {
        let channel = self.channel(endpoint).await?;
        let token = self
            .log_in(&channel)
            .await?
            .map(|token| token.parse())
            .transpose()
            .context("the server's token is no text")?;
        Ok(InterceptedService::new(channel, Token(token)))
    }

    /// The token of the user there is, for a connection that is made otherwise.
    ///
    /// # Errors
    /// As [`Access::connect`].
    pub async fn token(&self, endpoint: &str) -> Result<Option<String>> {
        match self.user {
            None => Ok(None),
            Some(_) => self.log_in(&self.channel(endpoint).await?).await,
        }
    }

    async fn channel(&self, endpoint: &str) -> Result<Channel> {
        let scheme = if endpoint.contains("://") { "" } else { "http://" };
        let url = format!("{scheme}{endpoint}");
        let mut address = Endpoint::from_shared(url.clone()).with_context(|| format!("{endpoint:?} is not a URL"))?;
        if url.starts_with("https://") {
            address = address.tls_config(self.tls()?).context("the TLS settings cannot be used")?;
        }
        let address = address
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        address.connect().await.with_context(|| format!("cannot reach {url}"))
    }

    async fn log_in(&self, channel: &Channel) -> Result<Option<String>> {
        let Some((name, password)) = self.credentials()? else { return Ok(None) };
        let request = pb::AuthenticateRequest { name: name.clone(), password };
        let answer = AuthClient::new(channel.clone()).authenticate(request).await;
        let answer = answer.map_err(|status| anyhow::anyhow!("cannot log in as {name}: {}", status.message()))?;
        Ok(Some(answer.into_inner().token))
    }

    fn tls(&self) -> Result<ClientTlsConfig> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.cacert {
            Some(file) => tls.ca_certificate(Certificate::from_pem(read("--cacert", file)?)),
            None => tls.with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read("--cert", cert)?, read("--key", key)?));
        }
        Ok(tls)
    }

    fn credentials(&self) -> Result<Option<(String, String)>> {
        Ok(match (&self.user, &self.password) {
            (None, _) => None,
            (Some(name), Some(password)) => Some((name.clone(), password.clone())),
            (Some(user), None) => match user.split_once(':') {
                Some((name, password)) => Some((name.to_owned(), password.to_owned())),
                None => bail!("--user {user}: give NAME:PASSWORD, or --password as well"),
            },
        })
    }
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{flag} {}", file.display()))
}

/// Puts the token on every request.
#[derive(Clone, Debug)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}
