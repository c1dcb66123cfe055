/*
 * address.c: tells public addresses from all others: loopback, private, link-local, shared,
 * multicast, reserved, and IPv6 forms that carry such an IPv4 address inside.
 */
#include <stdint.h>
#include <string.h>
#include <arpa/inet.h>
#include <netinet/in.h>

#include "address.h"

static bool ipv4_is_private(uint32_t ip);
static bool ipv6_is_private(const unsigned char *b);

/* IPv4 blocks that are not on the public internet (IANA special-purpose registry). */
static const struct
{
	uint32_t net;
	int bits;
} private_blocks[] = {
	{0x00000000, 8},  /* 0.0.0.0/8, this host */
	{0x0A000000, 8},  /* 10.0.0.0/8 */
	{0x64400000, 10}, /* 100.64.0.0/10, carrier-grade NAT */
	{0x7F000000, 8},  /* 127.0.0.0/8, loopback */
	{0xA9FE0000, 16}, /* 169.254.0.0/16, link-local: cloud metadata */
	{0xAC100000, 12}, /* 172.16.0.0/12 */
	{0xA83F8110, 32}, /* 168.63.129.16: Azure's platform, on every machine there */
	{0xC0000000, 24}, /* 192.0.0.0/24, protocol assignments */
	{0xC0000200, 24}, /* 192.0.2.0/24, documentation */
	{0xC0586300, 24}, /* 192.88.99.0/24, former 6to4 relays */
	{0xC0A80000, 16}, /* 192.168.0.0/16 */
	{0xC6120000, 15}, /* 198.18.0.0/15, benchmarks */
	{0xC6336400, 24}, /* 198.51.100.0/24, documentation */
	{0xCB007100, 24}, /* 203.0.113.0/24, documentation */
	{0xE0000000, 4},  /* 224.0.0.0/4, multicast */
	{0xF0000000, 4},  /* 240.0.0.0/4, reserved and broadcast */
};

/*
 * address_is_private says whether a socket address is anything but a public IP address.
 */
bool
address_is_private(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
	{
		struct sockaddr_in in;

		memcpy(&in, address, sizeof(in));
		return ipv4_is_private(ntohl(in.sin_addr.s_addr));
	}
	if (address->sa_family == AF_INET6)
	{
		struct sockaddr_in6 in6;

		memcpy(&in6, address, sizeof(in6));
		return ipv6_is_private(in6.sin6_addr.s6_addr);
	}
	return true;
}

/*
 * address_text_is_private does the same for an address in text form.
 */
bool
address_text_is_private(const char *text)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

	if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
		return address_is_private((struct sockaddr *) &in);
	if (inet_pton(AF_INET6, text, &in6.sin6_addr) == 1)
		return address_is_private((struct sockaddr *) &in6);
	return true;
}

/*
 * ipv4_is_private looks an address (host byte order) up in the blocks.
 */
static bool
ipv4_is_private(uint32_t ip)
{
	size_t i;

	for (i = 0; i < sizeof(private_blocks) / sizeof(private_blocks[0]); i++)
	{
		uint32_t mask = ~(uint32_t) 0 << (32 - private_blocks[i].bits);

		if ((ip & mask) == private_blocks[i].net)
			return true;
	}
	return false;
}

/*
 * ipv6_is_private allows only global unicast (2000::/3) less what is special in it. Forms that
 * carry an IPv4 address (mapped, NAT64, 6to4, ISATAP) are judged by that address.
 */
static bool
ipv6_is_private(const unsigned char *b)
{
	static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const unsigned char nat64[12] = {0, 0x64, 0xff, 0x9b};
	static const unsigned char isatap[3] = {0, 0x5e, 0xfe};
	uint32_t tail = (uint32_t) b[12] << 24 | (uint32_t) b[13] << 16 | (uint32_t) b[14] << 8 | b[15];
	uint32_t after_prefix =
		(uint32_t) b[2] << 24 | (uint32_t) b[3] << 16 | (uint32_t) b[4] << 8 | b[5];

	if (memcmp(b, mapped, 12) == 0 || memcmp(b, nat64, 12) == 0)
		return ipv4_is_private(tail);
	if ((b[0] & 0xE0) != 0x20)
		return true;
	if ((b[8] & 0xFD) == 0 && memcmp(b + 9, isatap, 3) == 0 && ipv4_is_private(tail))
		return true;
	if (b[0] == 0x20 && b[1] == 0x02) /* 2002::/16, 6to4 */
		return ipv4_is_private(after_prefix);
	if (b[0] == 0x20 && b[1] == 0x01 && b[2] < 0x02) /* 2001::/23: Teredo, ORCHID, benchmarks */
		return true;
	if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8) /* 2001:db8::/32 */
		return true;
	if (b[0] == 0x3f && b[1] == 0xff && b[2] < 0x10) /* 3fff::/20, documentation */
		return true;
	return false;
}
