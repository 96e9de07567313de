/* tls.c: see tls.h. */
#include "migration/tls.h"

#include <dlfcn.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LIBRARY	  "libgnutls.so.30"
#define PRIORITY  "SECURE128:-VERS-ALL:+VERS-TLS1.3"
#define NAME_SIZE 200
#define ACCEPTED  1 /* the byte of who listens */

#define FUNCTIONS(X) \
	X(gnutls_alert_get) \
	X(gnutls_alert_get_name) \
	X(gnutls_alert_send) \
	X(gnutls_alert_send_appropriate) \
	X(gnutls_bye) \
	X(gnutls_certificate_allocate_credentials) \
	X(gnutls_certificate_free_credentials) \
	X(gnutls_certificate_get_peers) \
	X(gnutls_certificate_send_x509_rdn_sequence) \
	X(gnutls_certificate_server_set_request) \
	X(gnutls_certificate_set_x509_key_file) \
	X(gnutls_certificate_set_x509_trust_file) \
	X(gnutls_certificate_verification_status_print) \
	X(gnutls_credentials_set) \
	X(gnutls_deinit) \
	X(gnutls_handshake) \
	X(gnutls_init) \
	X(gnutls_priority_set_direct) \
	X(gnutls_record_check_pending) \
	X(gnutls_record_get_direction) \
	X(gnutls_record_recv) \
	X(gnutls_record_send) \
	X(gnutls_session_get_verify_cert_status) \
	X(gnutls_session_set_verify_cert2) \
	X(gnutls_strerror) \
	X(gnutls_transport_set_errno) \
	X(gnutls_transport_set_ptr) \
	X(gnutls_transport_set_pull_function) \
	X(gnutls_transport_set_push_function) \
	X(gnutls_x509_crt_deinit) \
	X(gnutls_x509_crt_get_dn) \
	X(gnutls_x509_crt_import) \
	X(gnutls_x509_crt_init)

#define POINTER(name) __typeof__(name) *name;
struct lib {
	void *handle;
	FUNCTIONS(POINTER)
	gnutls_free_function *release; /* the variable "gnutls_free" */
};

struct tls_identity {
	struct lib lib;
	gnutls_certificate_credentials_t creds; /* owned */
	char *dir;				/* owned */
};

enum step { TLS_HANDSHAKE, TLS_ACCEPT, TLS_UP };

struct tls {
	struct tls_identity *id; /* borrowed */
	const struct lib *lib;
	int fd;	    /* borrowed */
	char *host; /* owned; NULL: this side listens */
	gnutls_typed_vdata_st wanted[2];
	enum step step;
	/* What the library does for who sends and for who receives happens one after the other; nobody waits with it. */
	pthread_mutex_t lock;
	gnutls_session_t session; /* owned */
};

/* ---- the library and the certificates ---- */

static int load_library(struct lib *lib, struct err *e)
{
	lib->handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!lib->handle)
		return err_set(e, -EOPNOTSUPP, "TLS needs %s, which is not here (Debian: libgnutls30): %s", LIBRARY, dlerror());
#define LOAD(name) \
	*(void **)&lib->name = dlsym(lib->handle, #name); \
	if (!lib->name) \
		return err_set(e, -EOPNOTSUPP, "%s has no %s: it is too old", LIBRARY, #name);
	FUNCTIONS(LOAD)
	*(void **)&lib->release = dlsym(lib->handle, "gnutls_free");
	return lib->release ? 0 : err_set(e, -EOPNOTSUPP, "%s is too old", LIBRARY);
}

static int load_files(struct tls_identity *id, struct err *e)
{
	const struct lib *lib = &id->lib;
	auto_free char *ca = xasprintf("%s/ca.pem", id->dir), *cert = xasprintf("%s/cert.pem", id->dir);
	auto_free char *key = xasprintf("%s/key.pem", id->dir);
	int ret = lib->gnutls_certificate_allocate_credentials(&id->creds);

	if (ret < 0)
		return err_set(e, -ENOMEM, "no TLS: %s", lib->gnutls_strerror(ret));
	ret = lib->gnutls_certificate_set_x509_trust_file(id->creds, ca, GNUTLS_X509_FMT_PEM);
	if (ret <= 0)
		return err_set(e, -EINVAL, "\"%s\": %s", ca, ret ? lib->gnutls_strerror(ret) : "there is no certificate in it");
	ret = lib->gnutls_certificate_set_x509_key_file(id->creds, cert, key, GNUTLS_X509_FMT_PEM);
	if (ret < 0)
		return err_set(e, -EINVAL, "\"%s\" with \"%s\": %s", cert, key, lib->gnutls_strerror(ret));
	return 0;
}

int tls_identity_load(struct tls_identity **out, const char *dir, struct err *e)
{
	struct tls_identity *id = xzalloc(sizeof(*id));
	int ret;

	id->dir = xstrdup(dir);
	ret = load_library(&id->lib, e);
	if (ret == 0)
		ret = load_files(id, e);
	if (ret < 0) {
		tls_identity_free(id);
		return ret;
	}
	*out = id;
	return 0;
}

void tls_identity_free(struct tls_identity *id)
{
	if (!id)
		return;
	if (id->creds)
		id->lib.gnutls_certificate_free_credentials(id->creds);
	if (id->lib.handle)
		dlclose(id->lib.handle);
	free(id->dir);
	free(id);
}

/* ---- a connection ---- */

static ssize_t push(gnutls_transport_ptr_t opaque, const void *data, size_t len)
{
	struct tls *t = opaque;
	ssize_t n = send(t->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0)
		t->lib->gnutls_transport_set_errno(t->session, errno);
	return n;
}

static ssize_t pull(gnutls_transport_ptr_t opaque, void *data, size_t len)
{
	struct tls *t = opaque;
	ssize_t n = recv(t->fd, data, len, MSG_DONTWAIT);

	if (n < 0)
		t->lib->gnutls_transport_set_errno(t->session, errno);
	return n;
}

/* What the peer's certificate has to be: for its side of TLS, if it says what it is for, and for this host. */
static void set_demands(struct tls *t)
{
	const struct lib *lib = t->lib;
	unsigned n = 0;

	t->wanted[n].type = GNUTLS_DT_KEY_PURPOSE_OID;
	t->wanted[n++].data = (unsigned char *)(uintptr_t)(t->host ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT);
	if (t->host) {
		t->wanted[n].type = GNUTLS_DT_DNS_HOSTNAME; /* an address as text is one, too */
		t->wanted[n++].data = (unsigned char *)t->host;
	}
	lib->gnutls_session_set_verify_cert2(t->session, t->wanted, n, 0);
	if (!t->host) {
		lib->gnutls_certificate_server_set_request(t->session, GNUTLS_CERT_REQUIRE);
		/* Not whose certificates are wanted: a peer that has others would show none, and nobody could say what is wrong. */
		lib->gnutls_certificate_send_x509_rdn_sequence(t->session, 1);
	}
	lib->gnutls_transport_set_ptr(t->session, t);
	lib->gnutls_transport_set_push_function(t->session, push);
	lib->gnutls_transport_set_pull_function(t->session, pull);
}

int tls_new(struct tls **out, struct tls_identity *id, int fd, const char *host, struct err *e)
{
	unsigned flags = (host ? GNUTLS_CLIENT : GNUTLS_SERVER) | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
	struct tls *t = xzalloc(sizeof(*t));
	int ret;

	t->id = id;
	t->lib = &id->lib;
	t->fd = fd;
	t->host = host ? xstrdup(host) : NULL;
	pthread_mutex_init(&t->lock, NULL);
	ret = t->lib->gnutls_init(&t->session, flags);
	if (ret == 0)
		ret = t->lib->gnutls_priority_set_direct(t->session, PRIORITY, NULL);
	if (ret == 0)
		ret = t->lib->gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, id->creds);
	if (ret < 0) {
		err_set(e, -EIO, "no TLS: %s", t->lib->gnutls_strerror(ret));
		tls_free(t);
		return e->code;
	}
	set_demands(t);
	*out = t;
	return 0;
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	if (t->session && t->step == TLS_UP)
		t->lib->gnutls_bye(t->session, GNUTLS_SHUT_WR);
	if (t->session)
		t->lib->gnutls_deinit(t->session);
	pthread_mutex_destroy(&t->lock);
	free(t->host);
	free(t);
}

/* ---- what goes wrong ---- */

static bool is_again(const struct tls *t, ssize_t ret, short *events)
{
	if (ret != GNUTLS_E_AGAIN && ret != GNUTLS_E_INTERRUPTED)
		return false;
	*events = t->lib->gnutls_record_get_direction(t->session) ? POLLOUT : POLLIN;
	return true;
}

/* Whose certificate it is that the peer has shown. */
static void peer_name(const struct tls *t, char *out, size_t room)
{
	const struct lib *lib = t->lib;
	unsigned nr = 0;
	const gnutls_datum_t *certs = lib->gnutls_certificate_get_peers(t->session, &nr);
	char name[NAME_SIZE];
	size_t size = sizeof(name);
	gnutls_x509_crt_t crt;
	bool known;

	snprintf(out, room, "?");
	if (!certs || !nr || lib->gnutls_x509_crt_init(&crt) < 0)
		return;
	known = lib->gnutls_x509_crt_import(crt, &certs[0], GNUTLS_X509_FMT_DER) == 0 && lib->gnutls_x509_crt_get_dn(crt, name, &size) == 0;
	if (known)
		snprintf(out, room, "%s", name);
	lib->gnutls_x509_crt_deinit(crt);
}

/* The peer's certificate is refused: says so to both sides. */
static int refuse(const struct tls *t, struct err *e)
{
	const struct lib *lib = t->lib;
	unsigned status = lib->gnutls_session_get_verify_cert_status(t->session);
	gnutls_alert_description_t alert = status & GNUTLS_CERT_EXPIRED		   ? GNUTLS_A_CERTIFICATE_EXPIRED
					   : status & GNUTLS_CERT_SIGNER_NOT_FOUND ? GNUTLS_A_UNKNOWN_CA
										   : GNUTLS_A_BAD_CERTIFICATE;
	char name[NAME_SIZE];
	gnutls_datum_t why = {0};

	lib->gnutls_alert_send(t->session, GNUTLS_AL_FATAL, alert);
	peer_name(t, name, sizeof(name));
	if (status & GNUTLS_CERT_UNEXPECTED_OWNER)
		return err_set(e, -EACCES, "the certificate of the destination, \"%s\", is not for \"%s\"", name, t->host);
	if (lib->gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &why, 0) < 0)
		why.data = NULL;
	err_set(e, -EACCES, "the certificate of the %s, \"%s\", is refused: %s", t->host ? "destination" : "source", name,
		why.data ? (const char *)why.data : "it is not valid");
	if (why.data)
		(*lib->release)(why.data);
	return e->code;
}

static int refused(const struct tls *t, struct err *e)
{
	const char *alert = t->lib->gnutls_alert_get_name(t->lib->gnutls_alert_get(t->session));

	return err_set(e, -EACCES, "the %s refuses this husk's certificate, \"%s/cert.pem\": %s", t->host ? "destination" : "source",
		       t->id->dir, alert ? alert : "it does not say why");
}

static int cut(struct err *e)
{
	return err_set(e, -ECONNRESET, "the connection is lost: it was cut off, the peer has not closed it");
}

static int failed_handshake(const struct tls *t, ssize_t ret, struct err *e)
{
	if (ret == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
		return refuse(t, e);
	if (ret == GNUTLS_E_FATAL_ALERT_RECEIVED)
		return refused(t, e);
	if (ret == GNUTLS_E_PULL_ERROR || ret == GNUTLS_E_PUSH_ERROR || ret == GNUTLS_E_PREMATURE_TERMINATION || ret == 0)
		return err_set(e, -ECONNRESET, "the connection is lost: the peer has closed it while TLS began; does it speak TLS?");
	t->lib->gnutls_alert_send_appropriate(t->session, (int)ret);
	if (ret == GNUTLS_E_NO_CERTIFICATE_FOUND || ret == GNUTLS_E_CERTIFICATE_REQUIRED)
		return err_set(e, -EACCES, "the source shows no certificate");
	return err_set(e, -EPROTO, "TLS does not begin, the peer may not speak it (both sides need tls:HOST:PORT): %s",
		       t->lib->gnutls_strerror((int)ret));
}

static int failed(const struct tls *t, ssize_t ret, struct err *e)
{
	if (ret == GNUTLS_E_FATAL_ALERT_RECEIVED)
		return refused(t, e);
	if (ret == GNUTLS_E_PULL_ERROR || ret == GNUTLS_E_PUSH_ERROR || ret == GNUTLS_E_PREMATURE_TERMINATION)
		return cut(e);
	return err_set(e, -EPROTO, "the connection is lost: TLS: %s", t->lib->gnutls_strerror((int)ret));
}

/* ---- work ---- */

/* The byte that who listens sends first. */
static ssize_t exchange_accepted(const struct tls *t)
{
	char byte = ACCEPTED;

	return t->host ? t->lib->gnutls_record_recv(t->session, &byte, 1) : t->lib->gnutls_record_send(t->session, &byte, 1);
}

static int handshake(struct tls *t, short *events, struct err *e)
{
	ssize_t ret = 1;

	if (t->step == TLS_HANDSHAKE) {
		ret = t->lib->gnutls_handshake(t->session);
		if (is_again(t, ret, events))
			return -EAGAIN;
		if (ret < 0)
			return failed_handshake(t, ret, e);
		t->step = TLS_ACCEPT;
	}
	if (t->step == TLS_ACCEPT) {
		ret = exchange_accepted(t);
		if (is_again(t, ret, events))
			return -EAGAIN;
		if (ret != 1)
			return failed_handshake(t, ret, e);
		t->step = TLS_UP;
	}
	return 0;
}

int tls_handshake(struct tls *t, short *events, struct err *e)
{
	int ret;

	pthread_mutex_lock(&t->lock);
	ret = handshake(t, events, e);
	pthread_mutex_unlock(&t->lock);
	return ret;
}

/* ctx: lock held */
static ssize_t outcome(const struct tls *t, ssize_t ret, short *events, struct err *e)
{
	if (ret >= 0)
		return ret;
	return is_again(t, ret, events) ? -EAGAIN : failed(t, ret, e);
}

ssize_t tls_send(struct tls *t, const void *data, size_t len, short *events, struct err *e)
{
	ssize_t ret;

	pthread_mutex_lock(&t->lock);
	ret = outcome(t, t->lib->gnutls_record_send(t->session, data, MIN(len, TLS_RECORD)), events, e);
	pthread_mutex_unlock(&t->lock);
	return ret;
}

ssize_t tls_receive(struct tls *t, void *data, size_t len, short *events, struct err *e)
{
	ssize_t ret;

	pthread_mutex_lock(&t->lock);
	ret = outcome(t, t->lib->gnutls_record_recv(t->session, data, len), events, e);
	pthread_mutex_unlock(&t->lock);
	return ret;
}

bool tls_pending(struct tls *t)
{
	bool ret;

	pthread_mutex_lock(&t->lock);
	ret = t->step == TLS_UP && t->lib->gnutls_record_check_pending(t->session) > 0;
	pthread_mutex_unlock(&t->lock);
	return ret;
}
