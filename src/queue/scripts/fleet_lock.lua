-- The lock of the reconciler that may change the machines of a fleet, with an epoch that grows with each change of the holder.
-- ARGV: fleet, hold, holder, ms, fresh (1: a new life of a holder with this name), insist (1: take it from a holder whose
--       time is over), and optionally an epoch and a status, which is published if the lock is MINE with this
--       epoch. Returns MINE, the epoch and whether the status was published; HELD and the ms left; or LAPSED and the
--       ms since its end.
--       fleet, release, holder, epoch. Returns OK.
local fleet, verb, holder = ARGV[2], ARGV[3], ARGV[4]
local lock = of_fleet('fleet:lock', fleet)
local l = redis.call('HMGET', lock, 'holder', 'epoch', 'until')
local mine, epoch = l[1] == holder, tonumber(l[2] or '0')
if verb == 'release' then
  if mine and l[2] == ARGV[5] then redis.call('HSET', lock, 'holder', '', 'until', clock()) end
  return { 'OK' }
end
local ms, fresh, insist = tonumber(ARGV[5]), ARGV[6] == '1', ARGV[7] == '1'
local now = clock()
-- If the clock was set back, the lock ends no later than the longest one would.
local left = math.min(tonumber(l[3] or '0') - now, 300000)
local taken = l[1] and l[1] ~= '' and not mine
if taken and left > 0 then return { 'HELD', left } end
if taken and not insist then return { 'LAPSED', -left } end
if fresh or not mine then epoch = epoch + 1 end
redis.call('HSET', lock, 'holder', holder, 'epoch', epoch, 'until', now + ms)
local publishes = ARGV[8] and tonumber(ARGV[8]) == epoch
if publishes then publish_fleet(fleet, ARGV[9]) end
return { 'MINE', epoch, publishes and 1 or 0 }
