/*
 * tls.h: TLS 1.3 for channels. Both sides show a certificate, and each wants the other's to be signed by its own CA; who connects also
 * wants the name of the host that it asked for in it. GnuTLS is loaded when somebody wants it: linked, it would cost each start of husk 2
 * ms.
 *
 * After the handshake who listens says with a byte that it accepts the certificate: so a refusal is heard where it belongs.
 */
#ifndef HUSK_TLS_H
#define HUSK_TLS_H

#include <sys/types.h>

#include "vmm/base/err.h"

struct tls_identity;
struct tls;

/* Loads the library and DIR/ca.pem, DIR/cert.pem (with the certificates between it and the CA, if there are any) and DIR/key.pem.
 * -EOPNOTSUPP: built or installed without GnuTLS; others: the file that is wrong is named. ctx: main, before the sandbox closes */
int tls_identity_load(struct tls_identity **out, const char *dir, struct err *e) MUST_CHECK;
void tls_identity_free(struct tls_identity *id); /* accepts NULL. No connection of its is left */

/* On a connected, non-blocking socket (borrowed). host: what was asked for, of who connects; NULL: this side listens. id: borrowed. Nothing
 * is sent yet. */
int tls_new(struct tls **out, struct tls_identity *id, int fd, const char *host, struct err *e) MUST_CHECK;
/* Says that no more comes, if there is room for that. Accepts NULL. No other thread uses it any more */
void tls_free(struct tls *t);

/*
 * None of these blocks: -EAGAIN means that `events` (POLLIN or POLLOUT) have to come first; after that the same bytes have to be sent. All
 * other errors are the connection's end. One thread may send while another receives.
 */
/* 0: done, and the peer accepts this side, too. -EACCES: a certificate is refused: whose, and why. -EPROTO: the peer speaks no TLS. */
int tls_handshake(struct tls *t, short *events, struct err *e) MUST_CHECK;
/* Returns how many bytes were sent, of at most TLS_RECORD. After the handshake. */
ssize_t tls_send(struct tls *t, const void *data, size_t len, short *events, struct err *e) MUST_CHECK;
/* Returns how many bytes have come; 0: the peer said that no more comes. -ECONNRESET: the connection was cut without that. */
ssize_t tls_receive(struct tls *t, void *data, size_t len, short *events, struct err *e) MUST_CHECK;
/* Bytes are here that poll does not know of. */
bool tls_pending(struct tls *t);

#define TLS_RECORD 16384u

#endif
