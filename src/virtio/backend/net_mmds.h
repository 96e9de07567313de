/*
 * net_mmds.h: a network backend in front of another: what the guest sends to the address of the metadata service, ARP for it included, is
 * answered here and never reaches the network; all else passes through, both ways. Devices without the service do not have it.
 */
#ifndef HUSK_NET_MMDS_H
#define HUSK_NET_MMDS_H

#include "virtio/backend/mmds_tcp.h"
#include "virtio/backend/net.h"

/* Firecracker's. */
#define MMDS_MAC "\x06\x01\x23\x45\x67\x01"

struct loop;

struct net_mmds_cfg {
	const char *address;		     /* IPv4 in dots, checked */
	struct mmds_service *const *service; /* borrowed; mmds_tcp.h */
	struct loop *loop;		     /* borrowed; for timers */
	void (*wake)(void *device); /* there is something to recv, though no descriptor says so: soon recv until -EAGAIN. ctx: loop, with
				     * or without the device's lock */
	void *device;
};

/* Takes *b over and puts itself there. Closing it closes both. ctx: before start */
void net_mmds_wrap(struct net_backend **b, const struct net_mmds_cfg *cfg);

#endif
