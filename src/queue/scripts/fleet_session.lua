-- Takes or renews the lock of the fleet without a name for a one-shot reconciler and, if it has the lock, asks for a permit of the rate
-- limit.
-- ARGV: holder, ms, fresh, insist (as of fleet_lock.lua), interval, age, class, budget (as of rate_limit.lua), and
-- optionally a machine that is about to be started: its workers may register again.
-- Returns the reply of fleet_lock.lua and, if that is MINE, the reply of rate_limit.lua.
--
-- The name of a holder is its group, a colon and its own id. A one-shot reconciler whose lock expired does not come
-- back, so the next one of its group takes the lock over at once.
local function group(holder)
  return string.match(holder, '^[^:]+:')
end
local l = redis.call('HMGET', of_fleet('fleet:lock', ''), 'holder', 'until')
local same_group = l[1] and group(l[1]) and group(l[1]) == group(ARGV[2])
local insist = same_group and tonumber(l[2]) <= clock() and '1' or ARGV[5]
local acquired = fleet_lock({ P, '', 'hold', ARGV[2], ARGV[3], ARGV[4], insist })
if acquired[1] ~= 'MINE' then return { acquired } end
local permit = rate_limit({ P, '', ARGV[6], ARGV[7], 'slot', ARGV[8], ARGV[9] })
if permit[1] == 'GO' and ARGV[10] then redis.call('ZREM', retired, ARGV[10]) end
return { acquired, permit }
