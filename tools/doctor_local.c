/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "doctor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "variables.h"
#include "vchan/address.h"
#include "vchan/log.h"
#include "vchan/vsock.h"

#define DEVICE "/dev/vsock"
#define HOST_DEVICE "/dev/vhost-vsock"

/* ---- the kernel ---- */

static void look_at_kernel(struct doctor *d)
{
	unsigned major = 0, minor = 0, patch = 0;
	const char *release = d->kernel.release;
	bool is_named;

	/* As docs/kernels.md has it; in between nobody has looked. */
	if (sscanf(release, "%u.%u.%u", &major, &minor, &patch) != 3 || major != 6 ||
	    minor != 12 || patch < 95 || patch >= 117) {
		findings_add(&d->findings, FINDING_OK, "kernel", NULL, "Linux %s", release);
		return;
	}
	is_named = patch == 95 || patch == 100;
	findings_add(&d->findings, FINDING_NOTE, "kernel",
		     "nothing between two ends of this library; with a plain peer send large "
		     "messages, or take 6.12.117 or later",
		     "Linux %s %s a connection whose reader lags behind many small packets",
		     release, is_named ? "resets" : "may reset");
}

/* ---- modules ---- */

struct module {
	const char *name, *option, *use;
};

static const struct module modules[MODULES] = {
	[CORE] = { "vsock", "CONFIG_VSOCKETS", "AF_VSOCK itself" },
	[GUEST_SIDE] = { "vmw_vsock_virtio_transport", "CONFIG_VIRTIO_VSOCKETS",
			 "a guest's way to its host" },
	[HOST_SIDE] = { "vhost_vsock", "CONFIG_VHOST_VSOCK", "a host's way to its guests" },
	[LOOPBACK] = { "vsock_loopback", "CONFIG_VSOCKETS_LOOPBACK",
		       "channels within this machine" },
	[DIAG] = { "vsock_diag", "CONFIG_VSOCKETS_DIAG", "vchan-vsock list" },
};

/* Other ways to a hypervisor that the kernel has. */
static const char *const strangers[] = { "hv_sock", "vmw_vsock_vmci_transport" };

static bool is_needed(const struct doctor *d, enum doctor_module which)
{
	return (which == CORE && !d->has_socket) || (which == LOOPBACK && d->config.loopback);
}

static void look_at_module(struct doctor *d, enum doctor_module which)
{
	static const char *const words[] = {
		[MODULE_LOADED] = "loaded",
		[MODULE_BUILT_IN] = "built in",
		[MODULE_AVAILABLE] = "not loaded",
		[MODULE_MISSING] = "not among this kernel's modules",
		[MODULE_HIDDEN] = "not loaded, and this kernel's modules are not in /lib/modules",
	};
	const struct module *m = &modules[which];
	enum module_state state = d->modules[which];
	enum finding finding = module_is_active(state) ? FINDING_OK :
		is_needed(d, which) ? FINDING_BAD : FINDING_NOTE;
	char advice[256];

	if (state == MODULE_AVAILABLE)
		snprintf(advice, sizeof advice, "for %s, as root: modprobe %s", m->use, m->name);
	else if (state == MODULE_HIDDEN)
		snprintf(advice, sizeof advice, "for %s, as root where they are (outside of a "
			 "container?): modprobe %s", m->use, m->name);
	else
		snprintf(advice, sizeof advice, "for %s take a kernel with %s; some systems have "
			 "it in a package of its own (linux-modules-extra-%.64s, kernel-modules)",
			 m->use, m->option, d->kernel.release);
	findings_add(&d->findings, finding, m->name, finding == FINDING_OK ? NULL : advice,
		     "%s", words[state]);
}

static void look_at_modules(struct doctor *d)
{
	for (enum doctor_module i = 0; i < MODULES; i++)
		d->modules[i] = module_look(modules[i].name, d->kernel.release);
	for (enum doctor_module i = 0; i < MODULES; i++)
		look_at_module(d, i);
}

static void look_at_socket(struct doctor *d)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	d->has_socket = fd >= 0;
	if (d->has_socket) {
		close(fd);
		findings_add(&d->findings, FINDING_OK, "socket", NULL,
			     "vsock sockets can be opened");
	} else {
		findings_add(&d->findings, FINDING_BAD, "socket",
			     errno == EAFNOSUPPORT ? "as root: modprobe vsock" :
			     "a security policy forbids it (seccomp, SELinux): allow AF_VSOCK",
			     "no vsock socket can be opened: %s", strerror(errno));
	}
}

/* ---- devices ---- */

static void look_at_device(struct doctor *d)
{
	enum finding trouble = d->config.has_domain ? FINDING_NOTE : FINDING_BAD;
	struct stat st;

	if (stat(DEVICE, &st) < 0)
		findings_add(&d->findings, trouble, "device",
			     "as root: modprobe vsock; in a container: give it the device, or "
			     "set VCHAN_DOMAIN", DEVICE ": %s", strerror(errno));
	else if (!S_ISCHR(st.st_mode))
		findings_add(&d->findings, trouble, "device", "remove it; as root: modprobe vsock",
			     DEVICE " is no device");
	else if (eaccess(DEVICE, R_OK) < 0)
		findings_add(&d->findings, trouble, "device",
			     "as root: chmod 666 " DEVICE ", and for later a udev rule, "
			     "KERNEL==\"vsock\", MODE=\"0666\"; or set VCHAN_DOMAIN",
			     DEVICE " (mode %03o) cannot be read by this user",
			     (unsigned)st.st_mode & 0777);
	else
		findings_add(&d->findings, FINDING_OK, "device", NULL, DEVICE " can be read");
}

static void look_at_host_device(struct doctor *d)
{
	bool is_host = module_is_active(d->modules[HOST_SIDE]);

	if (!is_host && access(HOST_DEVICE, F_OK) < 0)
		return;
	if (eaccess(HOST_DEVICE, R_OK | W_OK) == 0)
		findings_add(&d->findings, FINDING_OK, "host-device", NULL,
			     HOST_DEVICE ": this user may start guests that have vsock");
	else
		findings_add(&d->findings, FINDING_NOTE, "host-device",
			     errno == ENOENT ? "in a container: give it the device" :
			     "who runs QEMU needs it: often the group kvm",
			     HOST_DEVICE ": %s", strerror(errno));
}

/* ---- who this machine is ---- */

static void look_at_cid(struct doctor *d)
{
	if (vsock_local_cid(&d->kernel_cid) == 0) {
		findings_add(&d->findings, FINDING_OK, "cid", NULL, "the kernel's CID is %u",
			     d->kernel_cid);
		return;
	}
	findings_add(&d->findings, d->config.has_domain ? FINDING_NOTE : FINDING_BAD, "cid",
		     d->config.has_domain ? NULL :
		     "in a guest: modprobe vmw_vsock_virtio_transport; on a host: modprobe "
		     "vhost_vsock; or set VCHAN_DOMAIN",
		     "the kernel does not tell this machine's CID: %s", strerror(errno));
}

static bool is_guest(const struct doctor *d)
{
	return d->kernel_cid > CID_HOST;
}

static const char *stranger(const struct doctor *d)
{
	for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
		if (module_is_active(module_look(strangers[i], d->kernel.release)))
			return strangers[i];
	return NULL;
}

static void look_at_no_role(struct doctor *d)
{
	bool has_driver = module_is_active(d->modules[GUEST_SIDE]);
	enum finding trouble = d->config.loopback ? FINDING_NOTE : FINDING_BAD;
	const char *other = stranger(d);

	if (other)
		findings_add(&d->findings, FINDING_NOTE, "role",
			     "try it, with VCHAN_DOMAIN if the CID is unknown",
			     "%s is loaded, on which nobody has tried this library", other);
	else
		findings_add(&d->findings, trouble, "role",
			     has_driver ?
			     "start this guest with -device vhost-vsock-pci,guest-cid=N; on a "
			     "host: modprobe vhost_vsock" :
			     "in a guest: modprobe vmw_vsock_virtio_transport; on a host: "
			     "modprobe vhost_vsock",
			     has_driver ? "neither guest nor host: the driver has no device" :
			     "neither guest nor host: no other machine can be reached");
}

static void look_at_role(struct doctor *d)
{
	bool is_host = module_is_active(d->modules[HOST_SIDE]);

	if (is_guest(d) && is_host && !d->config.has_domain && !d->config.loopback)
		findings_add(&d->findings, FINDING_NOTE, "role",
			     "programs that talk to its own guests want VCHAN_DOMAIN=0",
			     "a guest, CID %u, and a host of others", d->kernel_cid);
	else if (is_guest(d))
		findings_add(&d->findings, FINDING_OK, "role", NULL, "a guest, CID %u%s",
			     d->kernel_cid, is_host ? ", and a host of others" : "");
	else if (is_host)
		findings_add(&d->findings, FINDING_OK, "role", NULL, "a host");
	else
		look_at_no_role(d);
}

/* What is wrong with a domain of loopback's, NULL for nothing. */
static const char *loopback_trouble(uint32_t domain)
{
	if (domain >= 512)
		return "too large for VCHAN_VSOCK_LOOPBACK, where domains are below 512";
	return domain >= 256 ? "too large for a server with VCHAN_VSOCK_LOOPBACK; a client it "
			       "may be" : NULL;
}

static const char *domain_trouble(const struct doctor *d)
{
	if (d->config.loopback)
		return loopback_trouble(d->own_cid);
	if (d->own_cid >= 32768)
		return "too large for a client, which is below 32768";
	/* CID 1 is everybody's. */
	if (d->kernel_cid > CID_LOCAL && d->own_cid != d->kernel_cid &&
	    !(d->own_cid == CID_HOST && module_is_active(d->modules[HOST_SIDE])))
		return "another than the kernel's CID, by which its peers know this machine";
	return NULL;
}

static void look_at_domain(struct doctor *d)
{
	const char *from = d->config.has_domain ? "VCHAN_DOMAIN" : "the kernel";
	const char *trouble;

	d->own_cid = d->config.has_domain ? address_cid(d->config.domain) : d->kernel_cid;
	if (!d->own_cid) {
		findings_add(&d->findings, FINDING_BAD, "domain", "set VCHAN_DOMAIN",
			     "neither VCHAN_DOMAIN nor the kernel says who this machine is: "
			     "no client can connect");
		return;
	}
	trouble = domain_trouble(d);
	findings_add(&d->findings, trouble ? FINDING_BAD : FINDING_OK, "domain",
		     !trouble ? NULL : d->config.has_domain ? "mend or unset VCHAN_DOMAIN" :
		     "give the machine another CID",
		     "channels take this machine for domain %u%s, as %s says%s%s",
		     d->own_cid == CID_HOST ? 0 : d->own_cid,
		     d->own_cid == CID_HOST ? " (the host)" : "", from, trouble ? ": " : "",
		     trouble ? trouble : "");
}

static void look_at_loopback(struct doctor *d)
{
	if (d->config.loopback)
		findings_add(&d->findings, FINDING_NOTE, "loopback",
			     "for tests only: unset VCHAN_VSOCK_LOOPBACK to reach other machines",
			     "all domains are on this machine, and any user can be any of them");
}

/* ---- limits ---- */

#define FDS_OF_A_CHANNEL 4
#define FEW_CHANNELS 64

static void look_at_limits(struct doctor *d)
{
	struct rlimit files;
	unsigned long channels;
	bool few;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	channels = (unsigned long)(files.rlim_cur / FDS_OF_A_CHANNEL);
	few = channels < FEW_CHANNELS;
	findings_add(&d->findings, few ? FINDING_NOTE : FINDING_OK, "open-files",
		     few ? "for more: ulimit -n 1024" : NULL,
		     "%lu files may be open in a process, of which an idle channel has %d",
		     (unsigned long)files.rlim_cur, FDS_OF_A_CHANNEL);
}

void doctor_look_here(struct doctor *d)
{
	(void)uname(&d->kernel);
	variables_look(&d->findings, &d->config);
	look_at_kernel(d);
	look_at_socket(d);
	look_at_modules(d);
	look_at_device(d);
	look_at_host_device(d);
	look_at_cid(d);
	look_at_role(d);
	look_at_domain(d);
	look_at_loopback(d);
	look_at_limits(d);
}
