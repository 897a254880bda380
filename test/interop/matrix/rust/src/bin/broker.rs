//! A broker with the crate spiffe's own Broker API client: `broker SOCKET AGENT_ID REFERENCE…`, each `pid:NUMBER`,
//! `pod:NAMESPACE/NAME` or `uid:UID`. Says what each is answered first, and why there is no more.

use std::error::Error;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use spiffe::X509Source;
use spiffe::broker_api::SecurityHeader;
use spiffe::broker_api::pb::spiffe::broker::api_client::ApiClient;
use spiffe::broker_api::pb::spiffe::broker::{
    FetchJwtsvidRequest, KubernetesObjectKey, KubernetesObjectReference, KubernetesObjectType, SubscribeToX509svidRequest, WorkloadPidReference,
    WorkloadReference,
};
use spiffe_rustls::{authorizer, mtls_client};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, agent, references @ ..] = arguments.as_slice() else { return Err("usage: broker SOCKET AGENT_ID REFERENCE…".into()) };
    let channel = connect(socket.clone(), agent).await?;
    for text in references {
        let mut client = ApiClient::with_interceptor(channel.clone(), SecurityHeader::new());
        let reference = reference_of(text)?;
        let request = FetchJwtsvidRequest { reference: Some(reference.clone()), audience: vec!["db".into()], spiffe_id: String::new() };
        match client.fetch_jwtsvid(request).await {
            Ok(answer) => say(json!({"event": "tokens", "at": 0, "reference": text, "ids": answer.into_inner().svids.iter().map(|svid| &svid.spiffe_id).collect::<Vec<_>>()})),
            Err(status) => {
                say(refused(text, &status));
                continue;
            }
        }
        let mut updates = client.subscribe_to_x509svid(SubscribeToX509svidRequest { reference: Some(reference) }).await?.into_inner();
        loop {
            match updates.message().await {
                Ok(Some(update)) => {
                    let svids: Vec<Value> = update.svids.iter().map(|svid| json!({"id": svid.spiffe_id, "chain": svid.x509_svid.len(), "key": svid.x509_svid_key.len()})).collect();
                    say(json!({"event": "svids", "at": 0, "reference": text, "svids": svids}));
                }
                Ok(None) => break,
                Err(status) => {
                    say(refused(text, &status));
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn connect(socket: String, agent: &str) -> Outcome<Channel> {
    let source = X509Source::new().await?;
    let config = mtls_client(source).authorize(authorizer::exact([agent])?).with_alpn_protocols([b"h2"]).build()?;
    let connector = TlsConnector::from(Arc::new(config));
    let channel = Endpoint::from_static("http://agent")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let (connector, socket) = (connector.clone(), socket.clone());
            async move {
                let raw = UnixStream::connect(socket).await?;
                let name = ServerName::try_from("agent").map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, raw).await?))
            }
        }))
        .await?;
    Ok(channel)
}

fn reference_of(text: &str) -> Outcome<WorkloadReference> {
    let (kind, rest) = text.split_once(':').ok_or("no such reference")?;
    let pods = KubernetesObjectType { plural: "pods".into(), group: "core".into() };
    Ok(match kind {
        "pid" => WorkloadPidReference { pid: rest.parse()? }.into(),
        "pod" => {
            let (namespace, name) = rest.split_once('/').ok_or("no such pod")?;
            let key = KubernetesObjectKey { namespace: namespace.into(), name: name.into() };
            KubernetesObjectReference { r#type: Some(pods), key: Some(key), uid: String::new() }.into()
        }
        "uid" => KubernetesObjectReference { r#type: Some(pods), key: None, uid: rest.into() }.into(),
        _ => return Err("no such reference".into()),
    })
}

fn refused(text: &str, status: &tonic::Status) -> Value {
    json!({"event": "refused", "at": 0, "reference": text, "code": format!("{:?}", status.code()), "message": status.message()})
}

fn say(line: Value) {
    println!("{line}");
}
