"""Every command of the client `aetcd` (gRPC) against one member: host and port are the arguments."""

import asyncio
import io
import sys

import aetcd


async def keys(client):
    assert await client.get(b'none') is None
    await client.put(b'k/a', b'1')
    result = await client.put(b'k/a', b'2', prev_kv=True)
    assert result.prev_kv.value == b'1'
    got = await client.get(b'k/a')
    assert (got.value, got.version) == (b'2', 2), got
    await client.put(b'k/b', b'3')
    await client.put(b'k/c', b'4')
    assert [kv.key for kv in await client.get_prefix(b'k/')] == [b'k/a', b'k/b', b'k/c']
    descending = await client.get_prefix(b'k/', sort_order='descend', sort_target='key', keys_only=True)
    assert [kv.key for kv in descending] == [b'k/c', b'k/b', b'k/a']
    assert [kv.value for kv in await client.get_range(b'k/a', b'k/c')] == [b'2', b'3']
    assert len(list(await client.get_all())) >= 3
    assert await client.replace(b'k/a', b'2', b'5') is True
    assert await client.replace(b'k/a', b'2', b'6') is False
    assert (await client.delete(b'k/a', prev_kv=True)).prev_kv.value == b'5'
    assert not await client.delete(b'k/a')
    assert (await client.delete_range(b'k/b', b'k/c')).deleted == 1
    assert (await client.delete_prefix(b'k/')).deleted == 1


async def transactions(client):
    txn = client.transactions
    success, responses = await client.transaction(
        compare=[txn.create(b'grpc/t') == 0], success=[txn.put(b'grpc/t', b'1'), txn.get(b'grpc/t')], failure=[txn.get(b'grpc/t')]
    )
    assert success is True and responses[1][0][0] == b'1'
    success, responses = await client.transaction(
        compare=[txn.value(b'grpc/t') == b'other'], success=[], failure=[txn.get(b'grpc/t'), txn.delete(b'grpc/t')]
    )
    assert success is False and responses[0][0][0] == b'1'
    assert await client.get(b'grpc/t') is None


async def leases(client):
    lease = await client.lease(60)
    await client.put(b'l/a', b'1', lease=lease)
    info = await client.get_lease_info(lease.id)
    assert info.grantedTTL == 60 and list(info.keys) == [b'l/a'], info
    assert (await client.refresh_lease(lease.id)).TTL == 60
    await client.revoke_lease(lease.id)
    assert await client.get(b'l/a') is None


async def watches(client):
    watch = await client.watch_prefix(b'w/')
    await client.put(b'w/1', b'a')
    await client.delete(b'w/1')
    kinds = []
    async for event in watch:
        kinds.append((event.kind, event.kv.key))
        if len(kinds) == 2:
            break
    assert kinds == [('PUT', b'w/1'), ('DELETE', b'w/1')], kinds
    await watch.cancel()
    revision = (await client.put(b'w/2', b'old')).header.revision
    event = await client.watch_once(b'w/2', timeout=10, start_revision=revision)
    assert event.kv.value == b'old'


async def locks(client):
    async with client.lock(b'lock', ttl=10) as lock:
        assert await lock.is_acquired()
        other = client.lock(b'lock', ttl=10)
        assert await other.acquire(timeout=0) is False
    assert await other.acquire(timeout=10) is True
    assert await other.release() is True


async def maintenance(client):
    status = await client.status()
    assert status.version.startswith('3.') and status.leader.name, vars(status)
    members = [member async for member in client.members()]
    assert all(member.peer_urls and member.client_urls for member in members)
    assert isinstance(await client.hash(), int)
    await client.defragment()
    assert [alarm async for alarm in client.list_alarms()] == []
    alarms = await client.create_alarm(members[0].id)
    assert len(alarms) == 1, alarms
    try:
        await client.put(b'full', b'')
        raise SystemExit('a put was taken in spite of the NOSPACE alarm')
    except Exception as error:
        assert 'database space exceeded' in str(error), error
    assert len(await client.disarm_alarm(members[0].id)) == 1
    revision = (await client.put(b'full', b'no more')).header.revision
    await client.compact(revision, physical=True)
    snapshot = io.BytesIO()
    await client.snapshot(snapshot)
    assert len(snapshot.getvalue()) % 512 == 32, len(snapshot.getvalue())


async def main(host, port):
    async with aetcd.Client(host=host, port=port, timeout=20) as client:
        for part in (keys, transactions, leases, watches, locks, maintenance):
            await asyncio.wait_for(part(client), 60)
            print(part.__name__)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
