//! One HTTP request or TCP connection to a pod, as probes and hooks make them.

use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// 200 to 399 is success; the error is what an Event shows.
pub async fn get(action: &HTTPGetAction, pod_ip: &str, container: Option<&Container>) -> Result<(), String> {
    if action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        return Err("HTTPS probes are not supported on this node".to_owned());
    }
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    let port = port(&action.port, container)?;
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let failed = |error: &dyn std::fmt::Display| format!("Get \"http://{host}:{port}{path}\": {error}");
    let stream = TcpStream::connect((host, port)).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let mut request = Request::get(&path)
        .header("host", format!("{host}:{port}"))
        .header("user-agent", "kube-probe/kontiki")
        .header("accept", "*/*");
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| failed(&error))?;
    let exchange = async { sender.send_request(request).await };
    let response = tokio::select! {
        response = exchange => response.map_err(|error| failed(&error))?,
        ended = connection => return Err(failed(&ended.err().map_or_else(|| "connection closed".to_owned(), |error| error.to_string()))),
    };
    let status = response.status();
    let is_success = (StatusCode::OK.as_u16()..400).contains(&status.as_u16());
    if is_success { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {}", status.as_u16())) }
}

pub async fn connect(action: &TCPSocketAction, pod_ip: &str, container: Option<&Container>) -> Result<(), String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    let port = port(&action.port, container)?;
    TcpStream::connect((host, port)).await.map(drop).map_err(|error| format!("dial tcp {host}:{port}: {error}"))
}

/// A number, or the name of one of the container's ports.
fn port(port: &IntOrString, container: Option<&Container>) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container
                .into_iter()
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port: {port:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn check(answer: &'static str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = socket.read(&mut head).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket
        };
        let action = HTTPGetAction { port: IntOrString::Int(number.into()), ..HTTPGetAction::default() };
        let (result, _socket) = tokio::join!(get(&action, "127.0.0.1", None), serve);
        result
    }

    #[tokio::test]
    async fn redirects_are_success_and_errors_are_not() {
        assert_eq!(check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await, Ok(()));
        assert_eq!(check("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await, Ok(()));
        assert_eq!(
            check("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await,
            Err("HTTP probe failed with statuscode: 500".to_owned())
        );
    }
}
