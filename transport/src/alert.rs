//! TLS alerts in words: a number means nothing to whoever has mixed up two ports or two certificates.
//!
//! A failed handshake carries an alert (RFC 8446 §6.2) inside a QUIC error code (RFC 9001 §4.8). Whichever side gives up sends it, so there are two
//! sets of words for each: what is wrong with the other side, when we gave up, and what the other side says is wrong with us. Listener
//! and dialler use the same ones; the dialler, where a person waits, adds what to do about it.

use quinn::{ConnectionError, TransportErrorCode};

/// The alert inside a QUIC error code: codes 0x100 to 0x1ff are `CRYPTO_ERROR` plus the alert.
pub(crate) fn alert_of(code: TransportErrorCode) -> Option<u8> {
    let code = u64::from(code);
    (0x100..0x200).contains(&code).then(|| u8::try_from(code - 0x100).expect("the range above is one byte wide"))
}

const HANDSHAKE_FAILURE: u8 = 40;
const BAD_CERTIFICATE: u8 = 42;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const CERTIFICATE_REVOKED: u8 = 44;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
const UNKNOWN_CA: u8 = 48;
const ACCESS_DENIED: u8 = 49;
const DECODE_ERROR: u8 = 50;
const DECRYPT_ERROR: u8 = 51;
const PROTOCOL_VERSION: u8 = 70;
const INSUFFICIENT_SECURITY: u8 = 71;
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// The same whoever notices it.
const OTHER_PROTOCOL: &str =
    "it speaks another protocol (ALPN): clients belong on the client port, nodes on the peer port";
const NOTHING_IN_COMMON: &str = "it has no TLS version, cipher or key exchange in common with us";

/// What is wrong with the other side, which we turned down.
pub(crate) fn fault_of_peer(alert: u8) -> &'static str {
    match alert {
        NO_APPLICATION_PROTOCOL => OTHER_PROTOCOL,
        // A certificate that merely names our authority is found out by its signature.
        UNKNOWN_CA | DECRYPT_ERROR => "its certificate is not from this cluster's authority",
        CERTIFICATE_REQUIRED => "it showed no certificate",
        CERTIFICATE_EXPIRED => "its certificate has expired, or is not valid yet by this machine's clock",
        CERTIFICATE_REVOKED => "its certificate has been revoked",
        BAD_CERTIFICATE | UNSUPPORTED_CERTIFICATE | CERTIFICATE_UNKNOWN | DECODE_ERROR => {
            "its certificate is malformed or of a kind that is not taken here"
        }
        HANDSHAKE_FAILURE | PROTOCOL_VERSION | INSUFFICIENT_SECURITY => NOTHING_IN_COMMON,
        _ => "it broke the rules of TLS",
    }
}

/// What the other side, which turned us down, says is wrong with us.
pub(crate) fn fault_of_ours(alert: u8) -> &'static str {
    match alert {
        NO_APPLICATION_PROTOCOL => OTHER_PROTOCOL,
        UNKNOWN_CA | DECRYPT_ERROR => "it does not accept our certificate: not from its cluster's authority",
        CERTIFICATE_REQUIRED => "it wants a certificate and we showed none",
        CERTIFICATE_EXPIRED => "it does not accept our certificate: expired, or not valid yet by its clock",
        CERTIFICATE_REVOKED => "it does not accept our certificate: revoked",
        BAD_CERTIFICATE | UNSUPPORTED_CERTIFICATE | CERTIFICATE_UNKNOWN | DECODE_ERROR | ACCESS_DENIED => {
            "it does not accept our certificate"
        }
        HANDSHAKE_FAILURE | PROTOCOL_VERSION | INSUFFICIENT_SECURITY => NOTHING_IN_COMMON,
        _ => "it ended the handshake",
    }
}

/// Why we cannot use the node that we dialled, and what to do about it.
pub(crate) fn explain_rejected_peer(alert: u8, detail: &str) -> String {
    let advice = match alert {
        UNKNOWN_CA | DECRYPT_ERROR => "; check the address and the CA file",
        CERTIFICATE_EXPIRED => "; issue it a new one or set the clock",
        _ => "",
    };
    format!("{}{advice} (alert {alert}: {detail})", fault_of_peer(alert))
}

/// Why the node that we dialled turned us down, and what to do about it.
pub(crate) fn explain_rejected_us(alert: u8, detail: &str) -> String {
    let advice = match alert {
        UNKNOWN_CA | DECRYPT_ERROR => "; use one of its own cluster",
        CERTIFICATE_EXPIRED => "; issue a new one or set the clock",
        CERTIFICATE_REQUIRED => "; give certificate and key",
        BAD_CERTIFICATE | UNSUPPORTED_CERTIFICATE | CERTIFICATE_REVOKED | CERTIFICATE_UNKNOWN | ACCESS_DENIED => {
            "; issue one with its cluster's authority"
        }
        _ => "",
    };
    format!("{}{advice} (alert {alert}: {detail})", fault_of_ours(alert))
}

/// Why a handshake came to nothing, for the log of the side that listens.
pub(crate) fn explain_handshake(error: &ConnectionError) -> String {
    if let ConnectionError::TransportError(error) = error
        && let Some(alert) = alert_of(error.code)
    {
        return format!("handshake failed: {} (alert {alert}: {})", fault_of_peer(alert), error.reason);
    }
    if let ConnectionError::ConnectionClosed(close) = error
        && let Some(alert) = alert_of(close.error_code)
    {
        let detail = String::from_utf8_lossy(&close.reason);
        return format!("handshake failed: {} (alert {alert}: {detail})", fault_of_ours(alert));
    }
    format!("handshake failed: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_told_from_other_errors() {
        assert_eq!(alert_of(TransportErrorCode::crypto(48)), Some(48));
        assert_eq!(alert_of(TransportErrorCode::crypto(255)), Some(255));
        for other in [TransportErrorCode::NO_ERROR, TransportErrorCode::PROTOCOL_VIOLATION] {
            assert_eq!(alert_of(other), None, "{other}");
        }
    }

    #[test]
    fn both_sides_blame_the_same_thing() {
        for (alert, word) in [
            (UNKNOWN_CA, "authority"),
            (DECRYPT_ERROR, "authority"),
            (CERTIFICATE_REQUIRED, "showed no"),
            (CERTIFICATE_EXPIRED, "expired"),
            (CERTIFICATE_REVOKED, "revoked"),
            (BAD_CERTIFICATE, "certificate"),
            (CERTIFICATE_UNKNOWN, "certificate"),
            (NO_APPLICATION_PROTOCOL, "clients belong on the client port"),
            (PROTOCOL_VERSION, "TLS version"),
        ] {
            for said in [fault_of_peer(alert), fault_of_ours(alert)] {
                let said = said.replace("we showed none", "we showed no certificate");
                assert!(said.contains(word), "alert {alert}: {said} lacks {word}");
            }
        }
    }

    #[test]
    fn what_is_no_alert_is_told_as_it_is() {
        assert_eq!(explain_handshake(&ConnectionError::TimedOut), "handshake failed: timed out");
    }
}
