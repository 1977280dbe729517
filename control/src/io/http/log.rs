//! `pods/log`: the node agent that runs the pod holds its output; the request is passed on to it.

use std::net::SocketAddr;

use axum::body::Body;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Answer, Call, HttpServer, respond};
use crate::engine::list::Query;
use crate::engine::meta;
use crate::io::api::Place;
use crate::limits;
use crate::registry;
use crate::status::ApiError;

/// Names the container to show when a pod has several.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Parameters that mean the same to the agent.
const PASSED_ON: [&str; 7] =
    ["follow", "previous", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "limitBytes"];

impl HttpServer {
    pub(super) async fn log(&self, call: &Call, place: Place<'_>) -> Answer {
        let pod = self.inner.api.get(place, false).await?;
        let container = container(&pod, call.query.param("container").unwrap_or_default())?;
        let node_name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node_name.is_empty() {
            // Not placed yet: nothing has been said.
            return Ok(respond::text(StatusCode::OK, ""));
        }
        let kind = registry::find("", "v1", "nodes").ok_or_else(|| ApiError::internal("nodes are not served"))?;
        let node = self.inner.api.get(Place { kind, namespace: None, name: node_name }, false).await?;
        let address = agent_address(&node)
            .ok_or_else(|| ApiError::internal(format!("node {node_name} has not said where its logs are")))?;
        let mut uri = format!("/containerLogs/{}/{}/{container}", place.namespace.unwrap_or_default(), place.name);
        let mut separator = '?';
        for name in PASSED_ON {
            if let Some(value) = call.query.param(name) {
                uri.push(separator);
                uri.push_str(&format!("{name}={}", escaped(value)));
                separator = '&';
            }
        }
        let asked = tokio::time::timeout(limits::AGENT_TIMEOUT, self.ask_agent(node_name, address, &uri)).await;
        let response = asked
            .map_err(|_| ApiError::internal(format!("node {node_name} at {address} did not answer in time")))?
            .map_err(|error| ApiError::internal(format!("Get \"https://{address}{uri}\": {error}")))?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let mut answer = Response::new(Body::new(response.into_body()));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(answer)
    }

    async fn ask_agent(
        &self,
        node_name: &str,
        address: SocketAddr,
        uri: &str,
    ) -> Result<Response<hyper::body::Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // The certificate names the node, wherever it lives.
        let name = ServerName::try_from(node_name.to_owned())?;
        let tls = TlsConnector::from(self.inner.access.agent_tls.clone()).connect(name, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a node agent ended");
            }
        });
        let request = Request::get(uri).header(HOST, address.to_string()).body(Empty::<bytes::Bytes>::new())?;
        Ok(sender.send_request(request).await?)
    }
}

/// The container whose output is meant.
fn container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let name = meta(pod, "name");
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().map_or(&[][..], Vec::as_slice);
        containers.iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    if !asked.is_empty() {
        if main.iter().chain(&init).any(|n| n == asked) {
            return Ok(asked.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    if let Some(default) = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str()
        && main.iter().any(|n| n == default)
    {
        return Ok(default.to_owned());
    }
    match main.as_slice() {
        [one] => Ok(one.clone()),
        several => {
            let mut why =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", several.join(" "));
            if !init.is_empty() {
                why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(why))
        }
    }
}

/// Where the agent of a node serves logs.
fn agent_address(node: &Value) -> Option<SocketAddr> {
    let status = &node["status"];
    let port = u16::try_from(status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?).ok()?;
    let addresses = status["addresses"].as_array()?;
    let ip = addresses
        .iter()
        .filter(|a| a["type"] == "InternalIP")
        .chain(addresses.iter())
        .find_map(|a| a["address"].as_str()?.parse().ok())?;
    Some(SocketAddr::new(ip, port))
}

/// What the agent said instead of a log: its words, as the client's mistake.
async fn refusal(response: Response<hyper::body::Incoming>) -> ApiError {
    let code = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let message = serde_json::from_str::<Value>(&body)
        .ok()
        .and_then(|status| status["message"].as_str().map(str::to_owned))
        .unwrap_or(body);
    match code.as_u16() {
        404 => ApiError::new(404, "NotFound", message),
        400..=499 => ApiError::bad_request(message),
        _ => ApiError::internal(message),
    }
}

/// A query value with everything but letters, digits and `-._~:` escaped.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn which_container_is_meant() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container(&pod, "b").unwrap(), "b");
        assert_eq!(container(&pod, "c").unwrap_err().message, "container c is not valid for pod p");
        let several = container(&pod, "").unwrap_err().message;
        assert_eq!(several, "a container name must be specified for pod p, choose one of: [a b]");
    }

    #[test]
    fn where_the_agent_is() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        }});
        assert_eq!(agent_address(&node), Some("10.0.0.1:10250".parse().unwrap()));
        assert_eq!(agent_address(&json!({})), None);
    }
}
