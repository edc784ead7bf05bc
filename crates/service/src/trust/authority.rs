//! The service's own certificate authority.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use polder_types::{ServerId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::files::{self, SecretFile};

/// Validity of an agent's certificate.
pub const CERTIFICATE_DAYS: u64 = 30;
/// When an agent renews it.
pub const RENEW_DAYS: u64 = 20;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Certificates are valid from here on, 2020-01-01, whenever they are made: a beginning protects nothing here (whom the
/// service accepts stands in its rows), and would lock out whoever has a clock behind that of the service.
const BEGINNING: Duration = Duration::from_secs(1_577_836_800);
const CA_DAYS: u32 = 20 * 365;
const SERVER_DAYS: u32 = 365;
/// The server's certificate is made again when it ends sooner.
const SERVER_RENEW_DAYS: u32 = 30;

/// A certificate that was made for an agent.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub pem: String,
    /// Its serial number: the key of its row.
    pub serial: Vec<u8>,
    /// End of its validity.
    pub expires_at: Timestamp,
    /// When the agent should come for the next one.
    pub renew_at: Timestamp,
}

/// Signs.
pub(super) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the authority, or makes it when both files are missing. One alone is an error: guessing would make all
    /// agents strangers.
    pub fn open(pem_path: &Path, key_path: &Path) -> Result<Self> {
        let (pem, key) = match (files::read(pem_path)?, files::read(key_path)?) {
            (Some(pem), Some(key)) => (pem, key),
            (None, None) => make(pem_path, key_path)?,
            (None, Some(_)) => bail!("\"{}\" is missing beside its key: put it back", pem_path.display()),
            (Some(_), None) => bail!("\"{}\" is missing: put it back", key_path.display()),
        };
        let key = KeyPair::from_pem(&key).context("the key of the certificate authority")?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).context("the certificate authority")?;
        Ok(Self { pem, issuer })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for an agent: what the request proves is the key, nothing else of it is taken.
    pub fn issue(&self, csr_pem: &str, server: ServerId, now: SystemTime) -> Result<Issued> {
        let request =
            CertificateSigningRequestParams::from_pem(csr_pem).context("the certificate request")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, server.to_string());
        params.distinguished_name.push(DnType::OrganizationName, "polder server");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let serial = set_serial(&mut params)?;
        let expires = now + CERTIFICATE_DAYS as u32 * DAY;
        set_validity(&mut params, expires);
        let made = params.signed_by(&request.public_key, &self.issuer).context("sign the certificate")?;
        Ok(Issued {
            pem: made.pem(),
            serial,
            expires_at: timestamp(expires),
            renew_at: timestamp(now + RENEW_DAYS as u32 * DAY),
        })
    }

    /// A certificate and a fresh key for this server.
    pub fn issue_server(&self, names: &[String], now: SystemTime) -> Result<(String, String)> {
        let mut params = CertificateParams::new(names).context("the server's names")?;
        params.distinguished_name.push(DnType::CommonName, "polder service");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_serial(&mut params)?;
        set_validity(&mut params, now + SERVER_DAYS * DAY);
        let key = KeyPair::generate().context("make the server's key")?;
        let made = params.signed_by(&key, &self.issuer).context("sign the server's certificate")?;
        Ok((made.pem(), key.serialize_pem()))
    }
}

fn make(pem_path: &Path, key_path: &Path) -> Result<(String, String)> {
    let now = SystemTime::now();
    let key = KeyPair::generate().context("make the authority's key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "polder certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_serial(&mut params)?;
    set_validity(&mut params, now + CA_DAYS * DAY);
    let made = params.self_signed(&key).context("make the certificate authority")?;
    // The key first: a crash in between is found at the next start and nothing was signed yet.
    files::write(key_path, &key.serialize_pem(), SecretFile::Secret)?;
    files::write(pem_path, &made.pem(), SecretFile::Public)?;
    tracing::info!(path = %pem_path.display(), "made the certificate authority");
    Ok((made.pem(), key.serialize_pem()))
}

/// 127 random bits, the first byte neither 0 nor above 127: so the number in the certificate is these bytes.
fn set_serial(params: &mut CertificateParams) -> Result<Vec<u8>> {
    let mut serial = vec![0u8; 16];
    getrandom::fill(&mut serial).context("draw random bytes")?;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(serial)
}

fn set_validity(params: &mut CertificateParams, to: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + BEGINNING;
    params.not_after = epoch + since_epoch(to);
}

fn since_epoch(time: SystemTime) -> Duration {
    Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::new(since_epoch(time).as_secs() as i64, 0)
}

/// Whether a server's certificate names all of `names` and is valid for a while.
pub(super) fn serves(pem: &str, names: &[String], now: SystemTime) -> bool {
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&block.contents) else { return false };
    let ends = certificate.validity().not_after.timestamp();
    let wanted = since_epoch(now + SERVER_RENEW_DAYS * DAY).as_secs() as i64;
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return false };
    let named = |name: &String| {
        let ip = name.parse::<IpAddr>().ok().map(|ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        });
        alternatives.value.general_names.iter().any(|known| match (known, &ip) {
            (GeneralName::IPAddress(known), Some(ip)) => known == ip,
            (GeneralName::DNSName(known), None) => known == name,
            _ => false,
        })
    };
    ends > wanted && names.iter().all(named)
}
