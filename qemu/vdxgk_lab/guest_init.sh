#!/bin/busybox sh
# Process 1 of the guest. The host reads what it prints on the console.
# Kernel arguments that it knows: vdxgk_load=no (leave the stub to the tests),
# vdxgk_shell=yes (a shell on the console, leaving which ends the machine, and
# one on the screen if there is a screen).

/bin/busybox mkdir -p /bin
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/sbin LD_LIBRARY_PATH=/lib HOME=/root

mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /run
mount -t tmpfs none /tmp

argument() {
	sed -n "s/.*\\b$1=\\([^ ]*\\).*/\\1/p" /proc/cmdline
}

while read -r module; do
	insmod "/lib/modules/$module" || echo "init: $module did not load"
done </lib/modules/order

if [ -e /lib/modules/vdxgk.ko ] && [ "$(argument vdxgk_load)" != no ]; then
	# Module parameters come as vdxgk.name=value, as for built-in modules.
	# shellcheck disable=SC2046
	insmod /lib/modules/vdxgk.ko $(tr ' ' '\n' </proc/cmdline | sed -n 's/^vdxgk\.//p') ||
		echo "init: vdxgk.ko did not load"
fi

agent_port() {
	for port in /sys/class/virtio-ports/*; do
		if [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ]; then
			echo "/dev/${port##*/}"
			return
		fi
	done
	return 1
}

# A device behind a virtio-iommu is probed anew, later, by a kernel thread.
tries=0
until port=$(agent_port); do
	tries=$((tries + 1))
	if [ $tries -gt 300 ]; then
		echo "init: there is no port for the guest agent"
		break
	fi
	sleep 0.1
done
[ -z "$port" ] || qemu-ga -m virtio-serial -p "$port" -t /run -l /dev/console &

if [ "$(argument vdxgk_shell)" = yes ]; then
	echo
	echo "vdxgk guest: dxgkctl drives the stub, exit ends the machine."
	if [ -e /dev/fb0 ]; then
		while :; do setsid -c sh </dev/tty1 >/dev/tty1 2>&1; done &
	fi
	setsid cttyhack sh
	poweroff -f
fi

# Orphans are reaped; init itself never ends.
while :; do
	wait
	sleep 3600
done
