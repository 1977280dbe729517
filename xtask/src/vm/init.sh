#!/bin/sh
# The guest's init: arranges the machine as Debian 12's systemd does, runs the suites, says how they ended, switches off.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root RUST_BACKTRACE=1
# No suite may leave anything out here.
export KONTIKI_TEST_COMPLETE=1
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=000 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
# On the disk, as everything else: tmpfs has no user attributes before Linux 6.6.
chmod 1777 /tmp /var/tmp
ln -s /proc/self/fd /dev/fd
mount --make-rshared /
hostname vm
ip link set lo up

# The agent's first overlay, bridge and veth make the kernel load their modules. Unlike kmod's, busybox' modprobe takes a
# module that is still being loaded for loaded: one at a time.
depmod
rm /sbin/modprobe
cat > /sbin/modprobe <<'END'
#!/bin/sh
until mkdir /run/modprobe 2>/dev/null; do sleep 0.05; done
/bin/busybox modprobe "$@"
code=$?
rmdir /run/modprobe
exit $code
END
chmod +x /sbin/modprobe

# systemd hands down memory and pids, not cpu; a service sits in a slice, where processes and controllers exclude each other.
cgroups=/sys/fs/cgroup
service=$cgroups/system.slice/kontiki.service
echo "+memory +pids" > $cgroups/cgroup.subtree_control
mkdir -p $service
echo "+memory +pids" > $cgroups/system.slice/cgroup.subtree_control

failed=""
for suite in /suites/*; do
    [ -x "$suite" ] || continue
    name=${suite##*/}
    echo "vm: suite $name, $(cut -d. -f1 /proc/uptime) s after boot"
    (
        echo 0 > $service/cgroup.procs
        cd /var/tmp
        xargs "$suite" --color=never < /suites/arguments
    ) || failed="$failed $name"
done

# Whatever the suites made must be gone.
left=$(
    exec 2>/dev/null
    grep -E 'kontiki|overlay' /proc/self/mountinfo
    grep -l kontiki-shim /proc/[0-9]*/comm
    ls -d $cgroups/kontiki* /sys/class/net/kt* /tmp/* /var/tmp/* /run/kontiki-test-*
)
[ -z "$left" ] || { echo "vm: left behind: $left"; failed="$failed leftovers"; }
dmesg | grep -E 'overlayfs:|BUG:|Oops|WARNING:' | sort | uniq -c

echo "vm: $(cut -d. -f1 /proc/uptime) s after boot"
if [ -z "$failed" ]; then echo "vm: passed"; else echo "vm: failed:$failed"; fi
poweroff -f
