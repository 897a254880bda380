//! One corner of the matrix with the crates spiffe and spiffe-rustls; what is said is in ../README.md.

use std::error::Error;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use spiffe::{JwtSource, JwtSvid, SpiffeId, X509Source};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Corner {
    id: SpiffeId,
    source: X509Source,
    tokens: JwtSource,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let source = X509Source::new().await?;
    let tokens = JwtSource::new().await?;
    let id = source.svid()?.spiffe_id().clone();
    let corner = Arc::new(Corner { id, source, tokens });
    let config = mtls_server(corner.source.clone()).authorize(authorizer::trust_domains([corner.id.trust_domain_name()])?).build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(json!({"event": "listening", "at": 0, "port": listener.local_addr()?.port(), "id": corner.id.to_string()}));
    tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), corner.clone()));

    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = orders.next_line().await? {
        let order: Value = serde_json::from_str(&line)?;
        let port = u16::try_from(order["port"].as_u64().unwrap_or_default())?;
        match corner.call(port, order["peer"].as_str().unwrap_or_default()).await {
            Ok(line) => say(line),
            Err(error) => say(json!({"event": "failed", "at": 0, "error": error.to_string()})),
        }
    }
    Ok(())
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, corner: Arc<Corner>) {
    while let Ok((raw, _)) = listener.accept().await {
        let (acceptor, corner) = (acceptor.clone(), corner.clone());
        tokio::spawn(async move {
            if let Err(error) = corner.answer(acceptor, raw).await {
                say(json!({"event": "refused", "at": 0, "error": error.to_string()}));
            }
        });
    }
}

impl Corner {
    async fn answer(&self, acceptor: TlsAcceptor, raw: TcpStream) -> Outcome<()> {
        let mut stream = acceptor.accept(raw).await?;
        let caller = id_of(leaf_of(stream.get_ref().1.peer_certificates())?)?;
        let token = read_line(&mut stream).await?;
        let valid = JwtSvid::parse_and_validate(&token, &self.tokens, &[self.id.to_string()])?;
        let reply = json!({"caller": caller, "subject": valid.spiffe_id().to_string()});
        stream.write_all(format!("{reply}\n").as_bytes()).await?;
        Ok(stream.shutdown().await?)
    }

    async fn call(&self, port: u16, peer: &str) -> Outcome<Value> {
        let token = self.tokens.fetch_jwt_svid(&[peer]).await?;
        let config = mtls_client(self.source.clone()).authorize(authorizer::exact([peer])?).build()?;
        let raw = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("peer")?, raw).await?;
        stream.write_all(format!("{}\n", token.token()).as_bytes()).await?;
        let reply: Value = serde_json::from_str(&read_line(&mut stream).await?)?;
        let peer_serial = serial_of(leaf_of(stream.get_ref().1.peer_certificates())?)?;
        let own_serial = serial_of(self.source.svid()?.leaf().as_bytes())?;
        Ok(json!({"event": "called", "at": 0, "peer": peer, "reply": reply, "peerSerial": peer_serial, "ownSerial": own_serial}))
    }
}

fn say(line: Value) {
    println!("{line}");
}

async fn read_line(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Outcome<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

fn leaf_of<'a>(chain: Option<&'a [CertificateDer<'static>]>) -> Outcome<&'a [u8]> {
    Ok(chain.and_then(|chain| chain.first()).ok_or("the peer presents no certificate")?)
}

fn id_of(leaf: &[u8]) -> Outcome<String> {
    let (_, certificate) = X509Certificate::from_der(leaf)?;
    let names = certificate.subject_alternative_name()?.ok_or("no names")?;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None })
        .ok_or_else(|| "no URI".into())
}

fn serial_of(leaf: &[u8]) -> Outcome<String> {
    let (_, certificate) = X509Certificate::from_der(leaf)?;
    Ok(certificate.tbs_certificate.serial.to_str_radix(16))
}
