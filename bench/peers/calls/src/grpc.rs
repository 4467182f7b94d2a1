//! tonic: gRPC with protobuf, on a Unix socket.
//!
//! What `tonic-build` would make of a `.proto` stands here as it would be, so that nobody needs `protoc`.

use std::convert::Infallible;
use std::path::Path;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::codegen::{BoxFuture, Service as Tower, http};
use tonic::server::{Grpc as Server, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::measure::Call;
use crate::{Failure, mean};

const METHOD: &str = "/means.Means/Mean";

/// `message Numbers { repeated double values = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
struct Numbers {
    #[prost(double, repeated, tag = "1")]
    values: Vec<f64>,
}

/// `message Answer { double value = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(double, tag = "1")]
    value: f64,
}

/// `service Means { rpc Mean (Numbers) returns (Answer); }`
#[derive(Clone)]
struct Means;

impl NamedService for Means {
    const NAME: &'static str = "means.Means";
}

impl UnaryService<Numbers> for Means {
    type Response = Answer;
    type Future = BoxFuture<Response<Answer>, Status>;

    fn call(&mut self, request: Request<Numbers>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(Answer { value: mean(&request.get_ref().values) })) })
    }
}

impl Tower<http::Request<Body>> for Means {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut server = Server::new(ProstCodec::<Answer, Numbers>::default());
            Ok(server.unary(Means, request).await)
        })
    }
}

pub(crate) async fn serve(path: &Path) -> Result<(), Failure> {
    let incoming = UnixListenerStream::new(UnixListener::bind(path)?);
    Ok(tonic::transport::Server::builder().add_service(Means).serve_with_incoming(incoming).await?)
}

pub(crate) struct Caller(Client<Channel>);

impl Caller {
    pub(crate) async fn connect(path: &Path) -> Result<Self, Failure> {
        let path = path.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used, but has to be one.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await?;
        Ok(Caller(Client::new(channel)))
    }
}

impl Call for Caller {
    async fn mean(&self, numbers: &[f64]) -> Result<f64, Failure> {
        let mut client = self.0.clone();
        client.ready().await?;
        let request = Request::new(Numbers { values: numbers.to_vec() });
        let path = http::uri::PathAndQuery::from_static(METHOD);
        let codec = ProstCodec::<Numbers, Answer>::default();
        Ok(client.unary(request, path, codec).await?.into_inner().value)
    }
}
