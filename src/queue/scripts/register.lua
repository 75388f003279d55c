-- Registers a worker. ARGV: worker, machine, record, until when it counts as alive.
-- Returns 1, or 0 if its machine was retired.
local worker, machine, record, alive_until = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local refused_until, now = redis.call('ZSCORE', retired, machine), clock()
-- Outlives the worker: it shows that the launch of the machine succeeded, even if no reconciler
-- observed the worker.
redis.call('ZADD', heard, now, machine)
redis.call('ZREMRANGEBYSCORE', heard, '-inf', now - 86400000)
redis.call('PEXPIRE', heard, 86400000)
if refused_until and tonumber(refused_until) > now then return 0 end
redis.call('HSET', pool, worker, record)
redis.call('ZADD', alive, alive_until, worker)
-- The role of its machine in the fleet has changed.
redis.call('XADD', events, 'MAXLEN', '~', 10000, '*', 'fleet', 'changed')
return 1
