/* tls_none.c: in place of tls.c in a husk without GnuTLS: there is no identity, and so no connection with one. */
#include <errno.h>

#include "migration/tls.h"

int tls_identity_load(struct tls_identity **out, const char *dir, struct err *e)
{
	*out = NULL;
	return err_set(e, -EOPNOTSUPP, "\"%s\": this husk was built without TLS (meson: -Dtls=enabled; a static husk cannot have it)", dir);
}

void tls_identity_free(struct tls_identity *id)
{
	(void)id;
}

int tls_new(struct tls **out, struct tls_identity *id, int fd, const char *host, struct err *e)
{
	(void)id;
	(void)fd;
	(void)host;
	*out = NULL;
	return err_set(e, -EOPNOTSUPP, "this husk was built without TLS");
}

void tls_free(struct tls *t)
{
	(void)t;
}

int tls_handshake(struct tls *t, short *events, struct err *e)
{
	(void)t;
	*events = 0;
	return err_set(e, -EOPNOTSUPP, "this husk was built without TLS");
}

ssize_t tls_send(struct tls *t, const void *data, size_t len, short *events, struct err *e)
{
	(void)data;
	(void)len;
	return tls_handshake(t, events, e);
}

ssize_t tls_receive(struct tls *t, void *data, size_t len, short *events, struct err *e)
{
	(void)data;
	(void)len;
	return tls_handshake(t, events, e);
}

bool tls_pending(struct tls *t)
{
	(void)t;
	return false;
}
