-- A worker enters the pool. ARGV: worker, machine, record, until when it counts as alive.
-- Returns 1, or 0 when its machine was told to stop.
local worker, machine, record, till = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local refused, now = redis.call('ZSCORE', retired, machine), clock()
-- Outlives the worker: the machine's launch was a good one, even if nobody looked while the worker was there.
redis.call('ZADD', heard, now, machine)
redis.call('ZREMRANGEBYSCORE', heard, '-inf', now - 86400000)
redis.call('PEXPIRE', heard, 86400000)
if refused and tonumber(refused) > now then return 0 end
redis.call('HSET', pool, worker, record)
redis.call('ZADD', alive, till, worker)
-- What its machine is to the fleet has changed.
redis.call('XADD', events, 'MAXLEN', '~', 10000, '*', 'fleet', 'changed')
return 1
