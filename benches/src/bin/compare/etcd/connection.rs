//! One gRPC connection to one member of etcd.

use super::messages::{
    PUT, PutRequest, PutResponse, RANGE, RangeRequest, RangeResponse, STATUS, StatusRequest, StatusResponse,
};
use super::tls::TlsFiles;
use crate::target::Target;
use anyhow::Context;
use bytes::Bytes;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP/2 connection, with or without TLS; requests of many clients share it as streams of their own.
#[derive(Clone)]
pub(crate) struct EtcdConnection {
    channel: Channel,
}

impl EtcdConnection {
    /// Connects to `127.0.0.1:port`.
    pub(super) async fn open(port: u16, tls: Option<&TlsFiles>) -> anyhow::Result<EtcdConnection> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://127.0.0.1:{port}");
        let endpoint = Endpoint::from_shared(address.clone())
            .with_context(|| format!("{address} is no address"))?
            .connect_timeout(CONNECT_TIMEOUT);
        let channel = match tls {
            None => endpoint.connect().await.map_err(anyhow::Error::new),
            Some(files) => files.connect(&endpoint, port).await,
        };
        Ok(EtcdConnection { channel: channel.with_context(|| format!("cannot connect to etcd at {address}"))? })
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> anyhow::Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let path = Uri::from_static(method).into_parts().path_and_query.expect("a method's name is a path");
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.with_context(|| format!("no connection for {method}"))?;
        let answer = grpc.unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default()).await;
        Ok(answer.with_context(|| format!("{method} failed"))?.into_inner())
    }

    pub(super) async fn status(&self) -> anyhow::Result<StatusResponse> {
        self.call(STATUS, StatusRequest {}).await
    }
}

impl Target for EtcdConnection {
    async fn put(&self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        let answer: PutResponse = self.call(PUT, PutRequest { key, value }).await?;
        answer.header.context("etcd answered a put without a header")?;
        Ok(())
    }

    async fn get(&self, key: Bytes) -> anyhow::Result<Option<Bytes>> {
        let answer: RangeResponse = self.call(RANGE, RangeRequest { key, serializable: false }).await?;
        Ok(answer.kvs.into_iter().next().map(|pair| pair.value))
    }
}
