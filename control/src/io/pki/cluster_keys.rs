//! The keys that all servers of a cluster share: in the store, and cached beside it.

use std::fs;
use std::io;
use std::path::Path;

use kontiki_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse, request_op, response_op,
};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};

use super::PkiError;
use super::kubeconfig::write_private;

const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const SERVICE_ACCOUNT_KEY: &str = "sa.key";
const PREFIX: &str = "/kontiki/pki/";

/// All PEM.
#[derive(Clone)]
pub(super) struct ClusterKeys {
    pub(super) ca_cert: String,
    pub(super) ca_key: String,
    pub(super) service_account_key: String,
}

impl ClusterKeys {
    fn named(&self) -> [(&'static str, &String); 3] {
        let Self { ca_cert, ca_key, service_account_key } = self;
        [(CA_CERT, ca_cert), (CA_KEY, ca_key), (SERVICE_ACCOUNT_KEY, service_account_key)]
    }

    /// The keys in a folder; none unless all are there.
    pub(super) fn cached(folder: &Path) -> Result<Option<Self>, PkiError> {
        let read = |name: &str| match fs::read_to_string(folder.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PkiError::File { path: folder.join(name), source }),
        };
        let keys = (read(CA_CERT)?, read(CA_KEY)?, read(SERVICE_ACCOUNT_KEY)?);
        let (Some(ca_cert), Some(ca_key), Some(service_account_key)) = keys else { return Ok(None) };
        Ok(Some(Self { ca_cert, ca_key, service_account_key }))
    }

    pub(super) fn cache(&self, folder: &Path) -> Result<(), PkiError> {
        fs::create_dir_all(folder).map_err(|source| PkiError::File { path: folder.to_owned(), source })?;
        for (name, pem) in self.named() {
            write_private(&folder.join(name), pem)?;
        }
        Ok(())
    }

    /// Puts these keys into the store if it has none; returns those it has.
    pub(super) async fn agree<T>(self, mut store: KvClient<T>) -> Result<Self, PkiError>
    where
        T: GrpcService<Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
        <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    {
        let answer = store.txn(self.create_if_absent()).await?.into_inner();
        if answer.succeeded { Ok(self) } else { winner(answer) }
    }

    fn create_if_absent(&self) -> TxnRequest {
        let path = |name: &str| Bytes::from(format!("{PREFIX}{name}"));
        let absent = Compare {
            key: path(CA_CERT),
            target: CompareTarget::Create.into(),
            result: CompareResult::Equal.into(),
            target_union: Some(TargetUnion::CreateRevision(0)),
            ..Compare::default()
        };
        let put = |(name, pem): (&str, &String)| {
            let value = Bytes::from(pem.clone());
            request_op::Request::RequestPut(PutRequest { key: path(name), value, ..PutRequest::default() })
        };
        let range = |(name, _): (&str, &String)| {
            request_op::Request::RequestRange(RangeRequest { key: path(name), ..RangeRequest::default() })
        };
        let op = |request| RequestOp { request: Some(request) };
        TxnRequest {
            compare: vec![absent],
            success: self.named().map(put).map(op).to_vec(),
            failure: self.named().map(range).map(op).to_vec(),
        }
    }
}

fn winner(answer: TxnResponse) -> Result<ClusterKeys, PkiError> {
    let mut values = answer.responses.into_iter().map(|op| match op.response {
        Some(response_op::Response::ResponseRange(range)) => {
            let kv = range.kvs.into_iter().next()?;
            String::from_utf8(kv.value.to_vec()).ok()
        }
        _ => None,
    });
    let mut next = |name| values.next().flatten().ok_or(PkiError::Incomplete(name));
    Ok(ClusterKeys { ca_cert: next(CA_CERT)?, ca_key: next(CA_KEY)?, service_account_key: next(SERVICE_ACCOUNT_KEY)? })
}
