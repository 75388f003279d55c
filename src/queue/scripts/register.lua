-- A worker enters the pool. ARGV: worker, machine, record, until when it counts as alive.
-- Returns 1, or 0 when its machine was told to stop.
local worker, machine, record, till = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local refused = redis.call('ZSCORE', retired, machine)
if refused and tonumber(refused) > clock() then return 0 end
redis.call('HSET', pool, worker, record)
redis.call('ZADD', alive, till, worker)
-- What its machine is to the fleet has changed.
redis.call('XADD', events, 'MAXLEN', '~', 10000, '*', 'fleet', 'changed')
return 1
