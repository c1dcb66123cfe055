/*
 * notify.c: speaks the datagram protocol of systemd's $NOTIFY_SOCKET, without its library.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "notify.h"

/*
 * notify_send sends one state line, such as "READY=1"; nothing happens outside a service manager.
 */
void
notify_send(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t length;
	int fd;

	if (path == NULL || (path[0] != '/' && path[0] != '@'))
		return;
	if (strlen(path) >= sizeof(address.sun_path))
		return;
	memcpy(address.sun_path, path, strlen(path));
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	length = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + strlen(path));

	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	/* Best effort: a manager that does not listen must not hold up deliveries. */
	(void) !sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *) &address, length);
	close(fd);
}

/*
 * notify_watchdog_interval returns how often (ms) "WATCHDOG=1" has to be sent, 0 for never: half
 * of what the manager asked of this very process.
 */
int64_t
notify_watchdog_interval(void)
{
	const char *usec = getenv("WATCHDOG_USEC");
	const char *pid = getenv("WATCHDOG_PID");
	int64_t value;

	if (usec == NULL || (pid && strtoll(pid, NULL, 10) != (long long) getpid()))
		return 0;
	value = strtoll(usec, NULL, 10) / 2000;
	return value > 0 ? value : 0;
}
