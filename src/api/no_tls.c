/*
 * no_tls.c: stands in for GnuTLS, so that libmicrohttpd can be linked from its archive. husk serves unix sockets and never asks for TLS:
 * none of this is called but the first. Why: GnuTLS and the ten libraries behind it cost each start of husk 2 ms, a husk in a chroot would
 * need all of them there, and Debian has no static ones.
 */

#define NO_TLS(name, result) \
	int name(void); \
	int name(void) \
	{ \
		return (result); \
	}

NO_TLS(gnutls_global_init, 0)
NO_TLS(gnutls_alpn_set_protocols, -1)
NO_TLS(gnutls_bye, -1)
NO_TLS(gnutls_certificate_allocate_credentials, -1)
NO_TLS(gnutls_certificate_free_credentials, -1)
NO_TLS(gnutls_certificate_server_set_request, -1)
NO_TLS(gnutls_certificate_set_dh_params, -1)
NO_TLS(gnutls_certificate_set_retrieve_function2, -1)
NO_TLS(gnutls_certificate_set_retrieve_function3, -1)
NO_TLS(gnutls_certificate_set_x509_key_mem, -1)
NO_TLS(gnutls_certificate_set_x509_key_mem2, -1)
NO_TLS(gnutls_certificate_set_x509_trust_mem, -1)
NO_TLS(gnutls_cipher_get, -1)
NO_TLS(gnutls_credentials_set, -1)
NO_TLS(gnutls_deinit, -1)
NO_TLS(gnutls_dh_params_deinit, -1)
NO_TLS(gnutls_dh_params_import_pkcs3, -1)
NO_TLS(gnutls_dh_params_init, -1)
NO_TLS(gnutls_global_deinit, -1)
NO_TLS(gnutls_handshake, -1)
NO_TLS(gnutls_init, -1)
NO_TLS(gnutls_priority_deinit, -1)
NO_TLS(gnutls_priority_init, -1)
NO_TLS(gnutls_priority_set, -1)
NO_TLS(gnutls_protocol_get_version, -1)
NO_TLS(gnutls_psk_allocate_server_credentials, -1)
NO_TLS(gnutls_psk_free_server_credentials, -1)
NO_TLS(gnutls_psk_set_server_credentials_function, -1)
NO_TLS(gnutls_record_check_pending, -1)
NO_TLS(gnutls_record_get_direction, -1)
NO_TLS(gnutls_record_recv, -1)
NO_TLS(gnutls_record_send, -1)
NO_TLS(gnutls_session_get_ptr, -1)
NO_TLS(gnutls_session_set_ptr, -1)
NO_TLS(gnutls_strerror, -1)
NO_TLS(gnutls_transport_set_int2, -1)

extern void *(*const gnutls_malloc)(unsigned long);
void *(*const gnutls_malloc)(unsigned long) = 0;
