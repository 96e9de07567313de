/* test_tls.c: channels over TLS: whose certificate is accepted, what is said about one that is not, and frames in both directions at once.
 */
#include "cm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/channel.h"
#include "migration/tls.h"
#include "vmm/base/buf.h"

#define PATIENCE 3000u
#define NR	 200u

static char dir[] = "/tmp/husk-tls-XXXXXX";

/* ---- certificates ---- */

static void shell(const char *fmt, ...)
{
	char cmd[2048];
	va_list args;

	va_start(args, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, args);
	va_end(args);
	if (system(cmd) != 0)
		fail_msg("%s", cmd);
}

static void make_ca(const char *name)
{
	shell("cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=%s' -keyout %s.key -out "
	      "%s.crt "
	      "2>/dev/null",
	      dir, name, name, name);
}

/* A folder with what one side has. days: from now on; negative: it has expired. */
static void make_side(const char *name, const char *ca, const char *trusts, const char *san, const char *usage, int days)
{
	shell("cd %s && mkdir %s && cp %s.crt %s/ca.pem && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=%s' "
	      "-keyout "
	      "%s/key.pem -out %s.csr 2>/dev/null",
	      dir, name, trusts, name, name, name, name);
	shell("cd %s && { echo subjectAltName=%s; %s%s; } >%s.ext && openssl x509 -req -in %s.csr -CA %s.crt -CAkey %s.key -CAcreateserial "
	      "-days "
	      "%d -extfile %s.ext -out %s/cert.pem 2>/dev/null",
	      dir, san, usage ? "echo extendedKeyUsage=" : "true", usage ? usage : "", name, name, ca, ca, days, name, name);
}

static int make_all(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(dir));
	make_ca("one");
	make_ca("two");
	make_side("dst", "one", "one", "DNS:localhost,IP:127.0.0.1", NULL, 30);
	make_side("src", "one", "one", "DNS:src.example", NULL, 30);
	make_side("expired", "one", "one", "DNS:localhost,IP:127.0.0.1", NULL, -1);
	make_side("stranger", "two", "one", "DNS:localhost,IP:127.0.0.1", NULL, 30);
	make_side("suspicious", "one", "two", "DNS:localhost,IP:127.0.0.1", NULL, 30);
	make_side("elsewhere", "one", "one", "DNS:elsewhere.example,IP:10.0.0.1", NULL, 30);
	make_side("web", "one", "one", "DNS:localhost,IP:127.0.0.1", "serverAuth", 30);
	return 0;
}

static int remove_all(void **state)
{
	(void)state;
	shell("rm -r %s", dir);
	return 0;
}

static struct tls_identity *identity(const char *name)
{
	auto_free char *path = xasprintf("%s/%s", dir, name);
	struct tls_identity *id;
	struct err e;

	if (tls_identity_load(&id, path, &e) < 0)
		fail_msg("%s", e.msg);
	return id;
}

/* ---- both ends ---- */

struct ends {
	struct channel src, dst;
	struct tls_identity *src_id, *dst_id;
	const char *scheme, *host;
	int listen_fd, src_ret, dst_ret;
	char address[128];
	struct err src_e, dst_e;
	struct frame first; /* that the destination got */
};

static void *connect_source(void *opaque)
{
	struct ends *x = opaque;

	x->src_ret = channel_connect(&x->src, x->address, x->src_id, PATIENCE, &x->src_e);
	if (x->src_ret == 0)
		x->src_ret = channel_send_bytes(&x->src, FRAME_HELLO, "hello", 5, &x->src_e);
	return NULL;
}

/* As the destination does: the handshake goes on whenever something comes. */
static int greet(struct ends *x)
{
	int ret;

	for (u32 i = 0; i < PATIENCE; i++) {
		ret = channel_greet(&x->dst, &x->dst_e);
		if (ret != -EAGAIN)
			break;
		usleep(1000);
	}
	return ret == 0 ? channel_receive(&x->dst, &x->first, (int)PATIENCE, &x->dst_e) : ret;
}

/* Listens as dst (NULL: plain), connects as src (NULL: plain), to see what comes of it. The host is asked for by `host`. */
static struct ends *meet(const char *src, const char *dst, const char *host)
{
	struct ends *x = xzalloc(sizeof(*x));
	pthread_t thread;
	int fd;

	x->src_id = src ? identity(src) : NULL;
	x->dst_id = dst ? identity(dst) : NULL;
	assert_int_equal(channel_listen("tls:127.0.0.1:0", &x->listen_fd, x->address, sizeof(x->address), &x->dst_e), 0);
	assert_int_equal(strncmp(x->address, "tls:127.0.0.1:", 14), 0);
	auto_free char *port = xstrdup(strrchr(x->address, ':'));
	snprintf(x->address, sizeof(x->address), "%s:%s%s", src ? "tls" : "tcp", host, port);
	assert_int_equal(pthread_create(&thread, NULL, connect_source, x), 0);
	do
		fd = accept(x->listen_fd, NULL, NULL);
	while (fd < 0 && errno == EAGAIN);
	assert_int_equal(channel_take(&x->dst, fd, x->dst_id, PATIENCE, &x->dst_e), 0);
	x->dst.epoch = CHANNEL_ANY_EPOCH;
	x->dst_ret = greet(x);
	if (x->dst_ret < 0)
		channel_close(&x->dst);
	pthread_join(thread, NULL);
	return x;
}

static void part(struct ends *x)
{
	channel_close(&x->src);
	channel_close(&x->dst);
	close(x->listen_fd);
	tls_identity_free(x->src_id);
	tls_identity_free(x->dst_id);
	free(x);
}

static void says(const struct err *e, int ret, int code, const char *words)
{
	if (ret != code || !strstr(e->msg, words))
		fail_msg("%d, \"%s\": not %d, \"...%s...\"", ret, ret ? e->msg : "", code, words);
}

/* ---- what is accepted ---- */

static void peers_with_good_certificates_talk(void **state)
{
	static const char *const hosts[] = {"127.0.0.1", "localhost"};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(hosts); i++) {
		struct ends *x = meet("src", "dst", hosts[i]);
		struct frame f;

		if (x->src_ret < 0 || x->dst_ret < 0)
			fail_msg("%s; %s", x->src_e.msg, x->dst_e.msg);
		assert_int_equal(x->first.type, FRAME_HELLO);
		assert_memory_equal(x->first.body, "hello", 5);
		assert_int_equal(channel_send_bytes(&x->dst, FRAME_WELCOME, "welcome", 7, &x->dst_e), 0);
		assert_int_equal(channel_receive(&x->src, &f, (int)PATIENCE, &x->src_e), 0);
		assert_memory_equal(f.body, "welcome", 7);
		assert_int_equal(channel_receive(&x->src, &f, 20, &x->src_e), -EAGAIN);
		part(x);
	}
}

struct talk {
	struct channel *c;
	bool receive;
};

static void *talk(void *opaque)
{
	const struct talk *t = opaque;
	u8 *body = xzalloc(300 * KIB);
	struct err e;

	for (u32 i = 0; i < NR; i++) {
		u32 len = i * 7919 % (300 * KIB);
		struct frame f;

		if (t->receive) {
			if (channel_receive(t->c, &f, (int)PATIENCE, &e) < 0)
				fail_msg("%s", e.msg);
			assert_int_equal(f.len, len);
			for (u32 at = 0; at < len; at += 101)
				assert_int_equal(f.body[at], (u8)(i + at));
			continue;
		}
		for (u32 at = 0; at < len; at++)
			body[at] = (u8)(i + at);
		if (channel_send_bytes(t->c, FRAME_PAGES, body, len, &e) < 0)
			fail_msg("%s", e.msg);
	}
	free(body);
	return NULL;
}

static void both_sides_send_while_they_receive(void **state)
{
	struct ends *x = meet("src", "dst", "localhost");
	struct talk t[4] = {{&x->src, false}, {&x->src, true}, {&x->dst, false}, {&x->dst, true}};
	pthread_t threads[4];

	(void)state;
	assert_int_equal(x->dst_ret, 0);
	for (u32 i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, talk, &t[i]), 0);
	for (u32 i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	part(x);
}

/* Two frames in one record: poll knows of the first only. */
static void a_frame_that_was_read_ahead_is_told(void **state)
{
	struct ends *x = meet("src", "dst", "localhost");
	struct frame f;
	u32 pending = 0;

	(void)state;
	for (u32 i = 0; i < 3; i++)
		assert_int_equal(channel_send_bytes(&x->src, FRAME_PING, "12345678", 8, &x->src_e), 0);
	for (u32 i = 0; i < 3; i++) {
		assert_int_equal(channel_receive(&x->dst, &f, (int)PATIENCE, &x->dst_e), 0);
		pending += channel_pending(&x->dst);
	}
	assert_int_equal(pending, 0); /* each frame is a record of its own */
	part(x);
}

/* ---- what is refused ---- */

static void refused(const char *src, const char *dst, const char *host, int src_code, const char *src_words, int dst_code,
		    const char *dst_words)
{
	struct ends *x = meet(src, dst, host);

	says(&x->src_e, x->src_ret, src_code, src_words);
	says(&x->dst_e, x->dst_ret, dst_code, dst_words);
	part(x);
}

static void a_certificate_that_has_expired_is_refused(void **state)
{
	(void)state;
	refused("src", "expired", "localhost", -EACCES, "the certificate of the destination, \"CN=expired\", is refused", -EACCES,
		"the source refuses this husk's certificate");
	refused("expired", "dst", "localhost", -EACCES, "the destination refuses this husk's certificate", -EACCES,
		"the certificate of the source, \"CN=expired\", is refused");
}

static void a_certificate_of_another_ca_is_refused(void **state)
{
	(void)state;
	refused("src", "stranger", "localhost", -EACCES, "the certificate of the destination, \"CN=stranger\", is refused", -EACCES,
		"the source refuses this husk's certificate");
	refused("stranger", "dst", "localhost", -EACCES, "the destination refuses this husk's certificate", -EACCES,
		"the certificate of the source, \"CN=stranger\", is refused");
	refused("src", "suspicious", "localhost", -EACCES, "the destination refuses this husk's certificate", -EACCES,
		"the certificate of the source, \"CN=src\", is refused");
}

static void a_certificate_for_another_host_is_refused(void **state)
{
	(void)state;
	refused("src", "elsewhere", "localhost", -EACCES, "\"CN=elsewhere\", is not for \"localhost\"", -EACCES,
		"the source refuses this husk's certificate");
	refused("src", "elsewhere", "127.0.0.1", -EACCES, "is not for \"127.0.0.1\"", -EACCES,
		"the source refuses this husk's certificate");
}

static void a_web_servers_certificate_brings_no_vm(void **state)
{
	struct ends *x = meet("src", "web", "localhost");

	(void)state;
	assert_int_equal(x->dst_ret, 0);
	part(x);
	refused("web", "dst", "localhost", -EACCES, "the destination refuses this husk's certificate", -EACCES,
		"the certificate of the source, \"CN=web\", is refused");
}

static void a_source_without_certificate_is_refused(void **state)
{
	struct ends x = {0};
	auto_free char *out = NULL;
	FILE *client;
	char text[4096];
	size_t n;
	int fd;

	(void)state;
	x.dst_id = identity("dst");
	assert_int_equal(channel_listen("tls:127.0.0.1:0", &x.listen_fd, x.address, sizeof(x.address), &x.dst_e), 0);
	out = xasprintf("openssl s_client -connect 127.0.0.1%s -tls1_3 </dev/null 2>&1", strrchr(x.address, ':'));
	client = popen(out, "r");
	assert_non_null(client);
	do
		fd = accept(x.listen_fd, NULL, NULL);
	while (fd < 0 && errno == EAGAIN);
	assert_int_equal(channel_take(&x.dst, fd, x.dst_id, PATIENCE, &x.dst_e), 0);
	says(&x.dst_e, greet(&x), -EACCES, "the source shows no certificate");
	channel_close(&x.dst);
	n = fread(text, 1, sizeof(text) - 1, client);
	text[n] = 0;
	pclose(client);
	close(x.listen_fd);
	tls_identity_free(x.dst_id);
}

static void peers_of_which_one_speaks_no_tls_find_out(void **state)
{
	struct ends *x;
	struct frame f;

	(void)state;
	refused("src", NULL, "localhost", -ECONNRESET, "does it speak TLS?", -EPROTO, "");
	x = meet(NULL, "dst", "localhost"); /* its first frame is gone before it can know */
	says(&x->dst_e, x->dst_ret, -EPROTO, "the peer may not speak it");
	assert_true(x->src_ret < 0 || channel_receive(&x->src, &f, (int)PATIENCE, &x->src_e) < 0);
	part(x);
}

static void tls_needs_a_certificate(void **state)
{
	struct channel c;
	struct err e;
	char bound[64];
	int fd;

	(void)state;
	assert_int_equal(channel_listen("tls:127.0.0.1:0", &fd, bound, sizeof(bound), &e), 0);
	says(&e, channel_connect(&c, bound, NULL, PATIENCE, &e), -EINVAL, "without --tls DIR");
	channel_close(&c);
	close(fd);
}

/* ---- ends ---- */

static void a_connection_that_was_cut_is_not_one_that_was_closed(void **state)
{
	struct ends *x = meet("src", "dst", "localhost");
	struct frame f;

	(void)state;
	channel_close(&x->src);
	says(&x->dst_e, channel_receive(&x->dst, &f, (int)PATIENCE, &x->dst_e), -ECONNRESET, "the peer has closed it");
	part(x);
	x = meet("src", "dst", "localhost");
	shutdown(x->src.fd, SHUT_RDWR);
	says(&x->dst_e, channel_receive(&x->dst, &f, (int)PATIENCE, &x->dst_e), -ECONNRESET, "it was cut off");
	part(x);
}

static void bytes_that_are_not_the_peers_end_the_connection(void **state)
{
	struct ends *x = meet("src", "dst", "localhost");
	u8 record[5 + 64] = {0x17, 3, 3, 0, 64};
	struct frame f;

	(void)state;
	assert_int_equal(send(x->src.fd, record, sizeof(record), 0), sizeof(record));
	says(&x->dst_e, channel_receive(&x->dst, &f, (int)PATIENCE, &x->dst_e), -EPROTO, "the connection is lost: TLS: ");
	part(x);
}

/* ---- files ---- */

static void load_fails(const char *name, const char *words)
{
	auto_free char *path = xasprintf("%s/%s", dir, name);
	struct tls_identity *id;
	struct err e;
	int ret = tls_identity_load(&id, path, &e);

	says(&e, ret, -EINVAL, words);
}

static void files_that_are_wrong_are_named(void **state)
{
	(void)state;
	load_fails("nowhere", "nowhere/ca.pem\": ");
	shell("cd %s && mkdir bad && echo nonsense >bad/ca.pem", dir);
	load_fails("bad", "bad/ca.pem\": ");
	shell("cd %s && cp one.crt bad/ca.pem", dir);
	load_fails("bad", "bad/cert.pem\" with ");
	shell("cd %s && cp src/cert.pem bad && cp dst/key.pem bad", dir);
	load_fails("bad", "bad/key.pem\": ");
	shell("cd %s && cp src/key.pem bad", dir);
	tls_identity_free(identity("bad"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(peers_with_good_certificates_talk),
		cmocka_unit_test(both_sides_send_while_they_receive),
		cmocka_unit_test(a_frame_that_was_read_ahead_is_told),
		cmocka_unit_test(a_certificate_that_has_expired_is_refused),
		cmocka_unit_test(a_certificate_of_another_ca_is_refused),
		cmocka_unit_test(a_certificate_for_another_host_is_refused),
		cmocka_unit_test(a_web_servers_certificate_brings_no_vm),
		cmocka_unit_test(a_source_without_certificate_is_refused),
		cmocka_unit_test(peers_of_which_one_speaks_no_tls_find_out),
		cmocka_unit_test(tls_needs_a_certificate),
		cmocka_unit_test(a_connection_that_was_cut_is_not_one_that_was_closed),
		cmocka_unit_test(bytes_that_are_not_the_peers_end_the_connection),
		cmocka_unit_test(files_that_are_wrong_are_named),
	};

	return cmocka_run_group_tests(tests, make_all, remove_all);
}
